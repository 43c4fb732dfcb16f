"""Save a trained model as one folder and build it again from there."""

from __future__ import annotations

import hashlib
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor
from transformers import AutoConfig

from cxml import storage
from cxml.config import Config, config_from_dict, config_to_dict
from cxml.errors import DataError
from cxml.model import CascadeXML, build_model
from cxml.tree import LabelTree

_FORMAT, _VERSION = "cxml-model", 1
_MANIFEST, _WEIGHTS = "manifest.json", "weights.safetensors"
_TRAIN_AGAIN = "Train again with --force train, or point to another model."


def model_url(config: Config) -> str:
    """Folder of the trained model inside the run's output."""
    return storage.join(config.output, "model")


def save_model(
    url: str, weights: dict[str, Tensor], *, config: Config, architecture: dict[str, Any], fingerprint: str
) -> None:
    """Write the model; the manifest comes last, so a folder without one is no model.

    Args:
        url: folder to write.
        weights: every parameter by its name in the model.
        config: the run's settings.
        architecture: the encoder's Hugging Face config.
        fingerprint: of what the model was made from.
    """
    manifest_url = storage.join(url, _MANIFEST)
    storage.remove(manifest_url)
    content = safetensors.torch.save({name: tensor.contiguous() for name, tensor in weights.items()})
    storage.write_atomic(storage.join(url, _WEIGHTS), content)
    manifest = {
        "format": _FORMAT,
        "version": _VERSION,
        "fingerprint": fingerprint,
        "config": config_to_dict(config),
        "encoder": architecture,
        "weights": {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()},
    }
    storage.write_json(manifest_url, manifest)


def load_model(url: str, tree: LabelTree) -> CascadeXML:
    """Build a saved model over the tree that it was trained with, on the CPU, in evaluation mode.

    Raises:
        DataError: there is no whole model at `url`, or it is damaged or belongs to another tree.
    """
    manifest_url = storage.join(url, _MANIFEST)
    if not storage.exists(manifest_url):
        raise DataError(manifest_url, "there is no finished model", _TRAIN_AGAIN)
    manifest = storage.read_json(manifest_url, _TRAIN_AGAIN)
    if (manifest.get("format"), manifest.get("version")) != (_FORMAT, _VERSION):
        raise DataError(manifest_url, f"is not a {_FORMAT} of version {_VERSION}", _TRAIN_AGAIN)
    weights = _read_weights(storage.join(url, _WEIGHTS), manifest["weights"])
    architecture = AutoConfig.for_model(**manifest["encoder"])
    model = build_model(config_from_dict(manifest["config"]).model, tree, architecture)
    expected = {name: parameter.shape for name, parameter in model.named_parameters()}
    found = {name: tensor.shape for name, tensor in weights.items()}
    if expected != found:
        differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise DataError(url, f"weights do not fit the model and its tree, first {differing[0]}", _TRAIN_AGAIN)
    model.to(next(iter(weights.values())).dtype)
    model.load_state_dict(weights, strict=False)  # buffers come from the tree
    return model.eval()


def _read_weights(url: str, facts: dict[str, Any]) -> dict[str, Tensor]:
    content = storage.read_bytes(url)
    if len(content) != facts["bytes"] or hashlib.sha256(content).hexdigest() != facts["sha256"]:
        raise DataError(url, "is damaged: its size or checksum is not the manifest's", _TRAIN_AGAIN)
    try:
        return safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise DataError(url, f"is no safetensors file ({error})", _TRAIN_AGAIN) from error
