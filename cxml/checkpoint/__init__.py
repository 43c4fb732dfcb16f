"""Checkpoints of a training and trained models, on disk or in an object store.

Input: a running job, or the URL of a checkpoint or model.

1. `Snapshot` is the state of a job as views or as a copy. `Saver` writes it to a folder in a thread, the commit last.
2. `ShardReader` checks every byte of a checkpoint, and `TrainingState.load_state_dict` loads it on any number of ranks.
3. `save_model` writes the weights of a model as safetensors, and a manifest with everything needed to rebuild it, last.
4. `load_start` loads the initial weights of another run from a checkpoint or model.

Output: a folder, or a job or model with the loaded state. Loading never unpickles.
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
from cxml.checkpoint.resume import candidate_checkpoints, require_best, resume, return_to_best
from cxml.checkpoint.retention import checkpoints_url, kept_checkpoints, list_checkpoints, sweep
from cxml.checkpoint.saver import Saver
from cxml.checkpoint.shards import ShardReader
from cxml.checkpoint.start import load_start, require_start, start_config
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
    "candidate_checkpoints",
    "checkpoints_url",
    "gathered_clusters",
    "has_model",
    "kept_checkpoints",
    "list_checkpoints",
    "load_model",
    "load_start",
    "load_weights",
    "model_url",
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
    "start_config",
    "sweep",
    "tensor_file",
    "tree_digest",
    "write_changed_model",
]
