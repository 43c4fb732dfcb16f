"""Checkpoints of a training and trained models, on disk or in an object store.

    running job -> Snapshot (views, or a copy) -> Saver (a thread) -> checkpoint folder, with its commit written last
    checkpoint folder -> ShardReader (checks every byte) -> TrainingState.load_state_dict -> running job, on any ranks
    model -> weights as safetensors + a manifest with everything needed to rebuild it, written last -> model
    checkpoint or model -> start: initial weights for another run, of the encoder only or of the whole model
Loading never unpickles.
"""

from cxml.checkpoint.changed_labels import Relabelling, relabel_tree
from cxml.checkpoint.loading import load_model
from cxml.checkpoint.manifest import COMMIT_FILE, read_checkpoint_manifest
from cxml.checkpoint.model_store import (
    ModelManifest,
    gathered_clusters,
    has_model,
    model_url,
    read_label_rows,
    read_model_manifest,
    read_weights,
    save_model,
    write_changed_model,
)
from cxml.checkpoint.resume import offered_checkpoints, require_best, resume, return_to_best
from cxml.checkpoint.retention import checkpoints_url, kept_checkpoints, list_checkpoints, sweep
from cxml.checkpoint.saver import Saver
from cxml.checkpoint.shards import ShardReader
from cxml.checkpoint.start import load_start, require_start
from cxml.checkpoint.tensor_files import load_weights, parse_tensors, tensor_file
from cxml.checkpoint.training_state import Progress, Snapshot, TrainingState, tree_digest

__all__ = [
    "COMMIT_FILE",
    "ModelManifest",
    "Progress",
    "Relabelling",
    "Saver",
    "ShardReader",
    "Snapshot",
    "TrainingState",
    "checkpoints_url",
    "gathered_clusters",
    "has_model",
    "kept_checkpoints",
    "list_checkpoints",
    "load_model",
    "load_start",
    "load_weights",
    "model_url",
    "offered_checkpoints",
    "parse_tensors",
    "read_checkpoint_manifest",
    "read_label_rows",
    "read_model_manifest",
    "read_weights",
    "relabel_tree",
    "require_best",
    "require_start",
    "resume",
    "return_to_best",
    "save_model",
    "sweep",
    "tensor_file",
    "tree_digest",
    "write_changed_model",
]
