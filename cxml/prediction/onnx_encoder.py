"""The encoder as an ONNX model, alone or as the first part of the whole model.

TappedEncoder -> torch.export -> torch.onnx -> ONNX model with external weights -> further nodes
-> one file, or two if the weights exceed the limit of an ONNX file
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx.external_data_helper import load_external_data_for_model
from torch import Tensor
from torch.export import ExportedProgram

from cxml import storage
from cxml.model import TappedEncoder
from cxml.prediction.encoder_program import check_features, encoder_program, naming_the_encoder

INPUTS = ("input_ids", "attention_mask")
DATA_SUFFIX = ".data"
"""Suffix of a model's file of external data."""
_MOST_BYTES = 2_000_000_000
"""Most bytes of a model in one file; protocol buffers are limited to 2 GiB."""
_OPSET = 18
"""The opset version that torch's exporter writes without a conversion."""
_SIZES = ("batch", "length")


def export_onnx_encoder(encoder: TappedEncoder, url: str) -> None:
    """Write the encoder to the file `url` (.onnx), and compare its features in onnxruntime.

    The model takes `input_ids` and `attention_mask`, int64 [B, T] each, B and T of any size, and returns `features_0`,
    `features_1` and so on, one per level, float32 [B, D] each, the labels' after the bottleneck. Weights of more than
    2 GB are in a separate file with the same name and the suffix `.data`.

    Raises:
        CxmlError: this encoder cannot be exported, or the features of the model differ.
    """
    encoder = encoder.eval()
    name = url.rstrip("/").rpartition("/")[2]
    with storage.temporary_folder() as folder:
        path = folder / name
        save_model(begin_model(encoder_program(encoder), feature_names(encoder), path), path)
        check_features(encoder, _as_function(path))
        data = path.with_name(name + DATA_SUFFIX)
        storage.remove(url)  # an earlier model must not use the new weights
        if data.exists():
            storage.write_atomic(url + DATA_SUFFIX, data.read_bytes())
        else:
            storage.remove(url + DATA_SUFFIX)
        storage.write_atomic(url, path.read_bytes())


def feature_names(encoder: TappedEncoder) -> list[str]:
    """The names of the features of each level among the outputs of a model."""
    return [f"features_{level}" for level in range(len(encoder.taps))]


def begin_model(program: ExportedProgram, names: list[str], path: Path) -> onnx.ModelProto:
    """A program of the encoder as an ONNX model, whose large weights are in the file of external data of `path`.

    Args:
        program: in float32, see `encoder_program`.
        names: of its outputs.
        path: of the model, which `save_model` writes.

    Returns:
        A model without its large weights.
    """
    # Without gradients, as in the export of the program: torch selects the kernel of the attention by them.
    with torch.no_grad(), naming_the_encoder(), _quiet():
        written = torch.onnx.export(
            program, dynamo=True, opset_version=_OPSET, optimize=True, input_names=INPUTS, output_names=names,
            verbose=False,
        )  # fmt: skip
        assert written is not None, "the exporter of programs returns one"
        written.save(path, external_data=True)
    model = onnx.load(path, load_external_data=False)
    _name_sizes(model.graph)
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """Within this context, suppress the exporter's warnings about torchvision and about its own calls."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def save_model(model: onnx.ModelProto, path: Path) -> None:
    """Write a model with its external data to one file, unless that would be too large."""
    data = path.with_name(path.name + DATA_SUFFIX)
    if not data.exists() or data.stat().st_size + model.ByteSize() <= _MOST_BYTES:
        load_external_data_for_model(model, str(path.parent))
        data.unlink(missing_ok=True)
    path.write_bytes(model.SerializeToString())


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """An onnxruntime session on the CPU."""
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def _name_sizes(graph: onnx.GraphProto) -> None:
    """Name the dimensions of inputs and outputs, and drop the shapes of the values between them."""
    del graph.value_info[:]
    for value in graph.input:
        for size, name in zip(value.type.tensor_type.shape.dim, _SIZES, strict=True):
            size.dim_param = name
    for value in graph.output:
        value.type.tensor_type.shape.dim[0].dim_param = _SIZES[0]


def _as_function(path: Path) -> Callable[..., Sequence[Tensor]]:
    session = open_session(path)

    def run(*inputs: Tensor) -> Sequence[Tensor]:
        found = session.run(None, {name: values.cpu().numpy() for name, values in zip(INPUTS, inputs, strict=True)})
        return [torch.from_numpy(np.asarray(values)).to(inputs[0].device) for values in found]

    return run
