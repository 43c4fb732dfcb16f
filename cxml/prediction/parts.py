"""Load everything needed for prediction from a run's model, a checkpoint or an exported folder."""

from __future__ import annotations

import hashlib
import logging
import posixpath
from dataclasses import dataclass, field

import numpy as np
from tokenizers import Tokenizer

from cxml import artefacts, storage
from cxml.artefacts import MappedFile
from cxml.checkpoint import (
    COMMIT_FILE,
    list_checkpoints,
    load_model,
    read_checkpoint_manifest,
    read_model_manifest,
    tree_digest,
)
from cxml.config import Config, saved_config
from cxml.data import DataManifest, data_url, load_tokenizer_of, read_label_table
from cxml.errors import ConfigError, DataError, StaleArtefactError
from cxml.evidence import CASCADE, Evidence, evidence_folder, read_evidence
from cxml.model import CascadeXML
from cxml.parallel import Exchange, RowLayout, ShardedLevel
from cxml.prediction.decisions import Decisions, read_exported_decisions, read_run_decisions
from cxml.prediction.packed_rows import PackedRows, pack
from cxml.tree import LabelTree, tree_url

_log = logging.getLogger(__name__)

_EVALUATE = "Evaluate the run again."
_POINT = "Give a run's output, its model folder, one of its checkpoints, or an exported model."


@dataclass(frozen=True, eq=False)
class Parts:
    """A model with everything needed for prediction.

    Attributes:
        model: the model in evaluation mode, on the CPU; its label head is replaced by one of `rows`.
        tree: the label tree.
        layout: layout of this rank's label rows.
        rows: this rank's label rows.
        names: name of each label id.
        titles: title of each label id; None where the data had no labels file.
        tokenizer: the encoder's tokenizer.
        pad_id: id of the padding token.
        config: config of the run.
        facts: further facts: `fingerprint` of the model's inputs, fingerprint of the `tokenizer`, optional `metrics`,
            `logit_adjustment` for adjusted biases, and `propensity_ranking` for label weights.
        frequency: train texts of each label, int64 [L]; None for an exported model.
        num_train_texts: number of training texts; 0 for an exported model.
        label_weights: factors of the labels' scores for ranking, float32 [L], above 0 and at most 1; None for no
            weights.
        decisions: thresholds and calibration chosen for the scores of exactly this model; empty if there are none, for
            a checkpoint, and with adjusted biases or label weights.
        evidence: sources beside the cascade; None for checkpoints, and if the model has none or ranks better without.
        mapped: the memory-mapped file of the weights of `rows`, if any.
    """

    model: CascadeXML
    tree: LabelTree
    layout: RowLayout
    rows: PackedRows
    names: list[str]
    tokenizer: Tokenizer
    pad_id: int
    config: Config
    facts: dict[str, object]
    frequency: np.ndarray | None = None
    num_train_texts: int = 0
    label_weights: np.ndarray | None = None
    decisions: Decisions = field(default_factory=Decisions)
    evidence: Evidence | None = None
    titles: list[str] | None = None
    mapped: MappedFile | None = None

    def check_rows(self) -> None:
        """Raise `DataError` if the mapped file of the label rows was changed."""
        if self.mapped is not None:
            self.mapped.check_unchanged()


def known_frequency(parts: Parts, option: str, value: float) -> np.ndarray:
    """The labels' frequency, which `option` needs, int64 [L].

    Raises:
        ConfigError: the model is exported and has no label frequencies.
    """
    if parts.frequency is None:
        raise ConfigError(
            option, value, "needs a run's model, not an exported one",
            f"Export the run's model again with python -m cxml.export --{option.replace('_', '-')}.",
        )  # fmt: skip
    return parts.frequency


def refuse_file(url: str, *, is_for_export: bool = False) -> None:
    """Raise an error if `url` is a local file instead of a model folder.

    Raises:
        DataError: `url` is a local file.
    """
    if _is_file(url):
        raise no_model(url, is_for_export=is_for_export)


def no_model(url: str, *, is_for_export: bool = False) -> DataError:
    """The error for a location without a trained or exported model, with a description of its content."""
    if is_for_export and _find(url):
        remedy = f"Load it with Predictor.from_checkpoint, or export it: python -m cxml.export {url} FOLDER."
        return DataError(url, "is a run or checkpoint, not an exported model", remedy)
    sizes = storage.file_sizes(url)
    if not storage.exists(url):
        found = "the folder does not exist"
    elif "" in sizes:
        found = "it is a file"
    else:
        found = "the folder has other content" if sizes else "the folder is empty"
    return DataError(url, f"contains no {'exported' if is_for_export else 'trained'} model: {found}", _POINT)


def model_identity(url: str) -> str:
    """A hash that identifies the model at `url`, without reading the weights.

    Raises:
        DataError: the trained model does not exist.
    """
    found = _find(url)
    place, is_checkpoint = found if found else (url, False)
    name = COMMIT_FILE if is_checkpoint else artefacts.MANIFEST
    try:
        artefacts.read_object(place, name, _POINT)
    except FileNotFoundError:
        raise no_model(url) from None
    digest = hashlib.sha256(storage.read_bytes(storage.join(place, name)))
    if name := evidence_folder(place):
        digest.update(storage.read_bytes(storage.join(place, name, artefacts.MANIFEST)))
    return digest.hexdigest()[:16]


def read_decisions(url: str) -> Decisions:
    """Thresholds and calibration of the model at `url`, a run or an exported folder, without reading its weights.

    Raises:
        DataError: the trained model does not exist, or the file of its decisions is damaged.
    """
    found = _find(url)
    if found is None:
        return read_exported_decisions(url, "Export the model again.")
    place, is_checkpoint = found
    return Decisions() if is_checkpoint else read_run_decisions(posixpath.dirname(place), model_identity(place), None)


def read_parts(url: str, exchange: Exchange, *, evidence: bool = True) -> Parts:
    """Load a run's model (`OUTPUT` or `OUTPUT/model`) or a checkpoint; a collective call.

    Data and tree are searched in the locations of the run's config, and next to the model if the run was moved.

    Args:
        url: location of the model.
        exchange: the ranks that share the label rows.
        evidence: False loads only the cascade, without decisions that were chosen for all parts together.

    Raises:
        DataError: the model does not exist, or a part of it is missing or damaged.
        StaleArtefactError: tree or tokenizer differ from those of the training.
    """
    found = _find(url)
    if found is None:
        raise no_model(url)
    place, is_checkpoint = found
    if is_checkpoint:
        run = read_checkpoint_manifest(place).run
        config, tree_hash, fingerprint = saved_config(run.config), run.tree, f"step {run.step}"
    else:
        manifest = read_model_manifest(place)
        config, tree_hash, fingerprint = saved_config(manifest.config), manifest.tree, manifest.fingerprint
    output = posixpath.dirname(posixpath.dirname(place) if is_checkpoint else place)
    tree = LabelTree.load(_existing(tree_url(config), storage.join(output, "tree")))
    if tree_digest(tree) != tree_hash:
        raise StaleArtefactError(f"{place} was trained with another label tree than the current one.")
    data = _existing(data_url(config), storage.join(output, "data"))
    model = load_model(place, tree, exchange, rows_in="host")
    head = model.label_head
    assert isinstance(head, ShardedLevel), "both loads build one"
    data_manifest = DataManifest.read(data)
    info = data_manifest.tokenizer
    table = read_label_table(data)
    names, titles = table.names, table.titles
    if len(names) != tree.num_labels:
        raise StaleArtefactError(f"{data} has {len(names)} labels, but the tree of {place} has {tree.num_labels}.")
    is_left_out = not evidence and evidence_folder(place) is not None
    has_decisions = not is_checkpoint and not is_left_out
    decisions = read_run_decisions(output, model_identity(place), len(names)) if has_decisions else Decisions()
    facts: dict[str, object] = {
        "fingerprint": fingerprint, "metrics": _metrics_beside(output), "tokenizer": info.fingerprint
    }  # fmt: skip
    return Parts(
        model=model, tree=tree, layout=head.layout, rows=pack(head), names=names,
        tokenizer=load_tokenizer_of(info, data), pad_id=info.pad_id, config=config, facts=facts,
        frequency=table.frequency, num_train_texts=data_manifest.rows("train"), decisions=decisions,
        evidence=None if is_checkpoint or not evidence else _read_evidence(place, tree, config, model),
        titles=None if titles is None else list(titles.titles),
    )  # fmt: skip


def _read_evidence(place: str, tree: LabelTree, config: Config, model: CascadeXML) -> Evidence | None:
    """The evidence of the model in the folder `place`, if its ranking uses any."""
    name = evidence_folder(place)
    if name is None:
        if config.evidence.sources:
            _log.warning(
                "%s has no evidence yet and predicts with the cascade only. Run python -m cxml.train to add it", place
            )
        return None
    evidence = read_evidence(storage.join(place, name), tree, width=model.encoder.feature_sizes[-1])
    return None if evidence.combination.way == CASCADE else evidence


def _find(url: str) -> tuple[str, bool] | None:
    """The folder of the weights for `url`, and whether it is a checkpoint."""
    if _is_file(url):
        return None
    place = url.rstrip("/")
    if storage.exists(storage.join(place, COMMIT_FILE)):
        return place, True
    for folder in (storage.join(place, "model"), place):
        if artefacts.format_of(folder, _POINT) == "cxml-model":
            return folder, False
    for folder in (storage.join(place, "checkpoints"), place):
        if newest := list_checkpoints(folder)[:1]:
            return newest[0].url, True
    return None


def _is_file(url: str) -> bool:
    path = storage.local_path(url)
    return path is not None and path.is_file()


def _existing(url: str, beside: str) -> str:
    """The first of two folders with a manifest; the first folder if neither has one, for the error message."""
    return next((each for each in (url, beside) if storage.exists(storage.join(each, artefacts.MANIFEST))), url)


def _metrics_beside(output: str) -> dict[str, float]:
    """The label metrics in the run's report, if it exists."""
    file = storage.join(output, "report.json")
    if not storage.exists(file):
        return {}
    levels = artefacts.read_json(file, _EVALUATE).get("levels")
    if not isinstance(levels, list) or not levels or not isinstance(levels[-1], dict):
        raise DataError(file, "contains no metrics of levels", _EVALUATE)
    if not all(isinstance(value, int | float) for value in levels[-1].values()):
        raise DataError(file, "contains label metrics that are not numbers", _EVALUATE)
    return levels[-1]
