"""Load the model in a folder, of a finished training or a checkpoint: weights only, on any number of ranks."""

from __future__ import annotations

from typing import Literal

import torch

from cxml import storage
from cxml.artefacts import MANIFEST
from cxml.checkpoint.manifest import COMMIT_FILE, SKIPPED
from cxml.checkpoint.model_store import (
    TRAIN_AGAIN,
    WEIGHTS_FILE,
    ModelManifest,
    mark_new,
    read_label_rows,
    read_model_manifest,
    read_weights,
)
from cxml.checkpoint.pieces import Pieces
from cxml.checkpoint.row_arrays import SavedLevel
from cxml.checkpoint.row_state import check_rows_are_held, is_label_row, load_rows, whole_level
from cxml.checkpoint.shards import ShardReader
from cxml.checkpoint.tensor_files import load_weights
from cxml.checkpoint.training_state import load_pieces, tree_digest
from cxml.config import saved_config
from cxml.data.architecture import read_architecture
from cxml.errors import DataError
from cxml.model import CascadeXML, build_model, check_weights_fit
from cxml.parallel import Exchange, ShardedLevel, sharded_levels
from cxml.tree import LabelTree


def load_model(
    url: str, tree: LabelTree, exchange: Exchange, *, rows_in: Literal["device", "host"] | None = None
) -> CascadeXML:
    """Load the model in a folder with the tree of its training, in fp32 on the CPU, in evaluation mode.

    Args:
        url: folder of a trained model or a checkpoint; optimiser state is not read.
        tree: the tree of its training.
        exchange: the ranks that share the label rows; each loads its own rows.
        rows_in: memory for the label rows; None uses the run's config.

    Raises:
        DataError: the model or checkpoint at `url` is incomplete or damaged, or belongs to another tree.
    """
    is_checkpoint = storage.exists(storage.join(url, COMMIT_FILE))
    return (_of_checkpoint if is_checkpoint else _of_trained)(url, tree, exchange, rows_in).eval()


def _of_trained(url: str, tree: LabelTree, exchange: Exchange, rows_in: Literal["device", "host"] | None) -> CascadeXML:
    manifest = read_model_manifest(url)
    config = saved_config(manifest.config)
    architecture = read_architecture(manifest.encoder, storage.join(url, MANIFEST), TRAIN_AGAIN)
    weights = read_weights(url, manifest)
    sizes = {name: tensor.numel() for name, tensor in weights.items()}
    check_weights_fit(config.model, tree, architecture, sizes=sizes, file=url, remedy=TRAIN_AGAIN)
    label_width = config.model.label_width(architecture.hidden_size)
    if sum(file.bytes for file in manifest.labels) < 2 * tree.num_labels * label_width:
        raise DataError(url, f"its files are too small for the rows of {tree.num_labels} labels", TRAIN_AGAIN)
    make_levels = sharded_levels(tree, exchange, config, trains=False, rows_in=rows_in)
    model = build_model(config.model, tree, architecture, make_levels)
    load_weights(model, weights, storage.join(url, WEIGHTS_FILE), TRAIN_AGAIN)
    _load_label_rows(url, manifest, model)
    return model


def _load_label_rows(url: str, manifest: ModelManifest, model: CascadeXML) -> None:
    head = model.label_head
    assert isinstance(head, ShardedLevel), "built so"
    taken, seen = 0, torch.zeros(head.layout.num_labels, dtype=torch.bool)
    for entry, rows in zip(manifest.labels, read_label_rows(url, manifest), strict=True):
        if rows["weight"].shape[1] != model.encoder.feature_sizes[-1] or not mark_new(seen, rows["positions"]):
            raise DataError(storage.join(url, entry.file), "rows do not fit the tree's labels", TRAIN_AGAIN)
        taken += head.import_rows(rows["positions"], rows["weight"], rows["bias"])
    if taken != head.layout.num_rows:
        raise DataError(url, f"contains {taken} of the {head.layout.num_rows} label rows needed here", TRAIN_AGAIN)


def _of_checkpoint(
    url: str, tree: LabelTree, exchange: Exchange, rows_in: Literal["device", "host"] | None
) -> CascadeXML:
    reader = ShardReader(url)
    run = reader.manifest.run
    if run.tree != tree_digest(tree):
        raise DataError(url, "was saved with another label tree", SKIPPED)
    config = saved_config(run.config)
    architecture = read_architecture(run.encoder, url, SKIPPED)
    held = reader.manifest.tensors
    sizes = {name.removeprefix("model/"): entry.numel for name, entry in held.items()
             if name.startswith("model/") and not is_label_row(name)}  # fmt: skip
    clusters = [SavedLevel.clusters(level, size, run.width) for level, size in enumerate(tree.level_sizes[:-1])]
    elsewhere = [saved for saved in clusters if not saved.are_parameters(reader)]
    for saved in elsewhere:
        sizes |= {f"{saved.parameter}.weight": saved.num_rows * run.width, f"{saved.parameter}.bias": saved.num_rows}
    check_weights_fit(config.model, tree, architecture, sizes=sizes, file=url, remedy=SKIPPED)
    if (run.num_labels, run.width) != (tree.num_labels, architecture.hidden_size):
        problem = f"contains {run.num_labels} label rows of width {run.width}, which do not fit its tree and encoder"
        raise DataError(url, problem, SKIPPED)
    labels = SavedLevel.labels(run.num_labels, config.model.label_width(run.width))
    for saved in (*elsewhere, labels):
        check_rows_are_held(reader, saved)
    make_levels = sharded_levels(tree, exchange, config, trains=False, rows_in=rows_in)
    model = build_model(config.model, tree, architecture, make_levels).float()
    weights = {name: parameter for name, parameter in model.named_parameters() if not is_label_row(name)}
    with torch.no_grad():
        for saved in elsewhere:
            whole = zip(("weight", "bias"), whole_level(reader, saved), strict=True)
            for kind, values in whole:
                weights.pop(f"{saved.parameter}.{kind}").copy_(values)
        load_pieces(reader, {f"model/{name}": Pieces.whole(values.detach()) for name, values in weights.items()})
    assert isinstance(model.label_head, ShardedLevel), "built so"
    load_rows(model.label_head, labels, reader, trains=False)
    return model
