"""Prepared data sets: from Arrow shards on disk or in an object store to batches of tensors.

Input: a folder with `manifest.json`, `labels.arrow` and the Arrow shards of each split (docs/formats.md).

1. `DatasetWriter` writes such a folder, with the manifest last, which commits it.
2. `ShardedDataset` opens a split and gathers rows by number from memory-mapped shards. Remote shards are first copied
   to the node's `ShardCache`.
3. `StepOrder` and `cut` assign rows to each optimiser step, rank and micro-batch. They are pure functions of (lengths,
   settings, seed, epoch, step), so the state of a loader is a few integers.
4. `TrainLoader` and `EvalLoader` gather and pad rows to `Batch`es. A thread prepares them ahead, and copies those of a
   training to its accelerator.

Output: `Batch`es, or whole CSR matrices for the label tree and the metrics.
"""

from cxml.data.batch import Batch, BatchLimits, collate, padded_lengths
from cxml.data.bounds import most_bytes, most_items, refuse_repeated_values
from cxml.data.cache import ShardCache
from cxml.data.dataset import LabelTable, ShardedDataset, read_label_table, read_vocabulary, verify
from cxml.data.encoder_path import resolve_encoder
from cxml.data.length_parts import Part, length_parts
from cxml.data.loader import EvalLoader, TrainLoader, require_parts
from cxml.data.manifest import DataManifest, ShardInfo, TokenizerInfo, data_url
from cxml.data.name_texts import TextRows, described_parts, parts_of_names, require_parts_of_names, with_names
from cxml.data.order import cut, epoch_order
from cxml.data.prefetch import prefetch, stage
from cxml.data.ragged import Ragged, concatenate, lengths_to_offsets
from cxml.data.sparse_npz import StoredMatrix, read_sparse_npz
from cxml.data.splits import (
    VALIDATION,
    JoinedRows,
    LabelledRows,
    RowSubset,
    all_labelled_texts,
    held_out_rows,
    num_held_out,
    refuse_second_validation,
    train_texts,
    validation_texts,
)
from cxml.data.step_order import StepFacts, StepOrder, StepRule, micro_batch_shapes, step_facts
from cxml.data.terms import Vocabulary, checked_vocabulary
from cxml.data.titles import LabelTitles, shown_label, shown_labels
from cxml.data.tokenizing import TextEncoder, load_tokenizer_of, tokenizer_fingerprint
from cxml.data.windows import WindowRule, Windows, window_rule
from cxml.data.writer import DatasetWriter, Examples

__all__ = [
    "VALIDATION", "Batch", "BatchLimits", "DataManifest", "DatasetWriter", "EvalLoader", "Examples", "JoinedRows",
    "LabelTable", "LabelTitles", "LabelledRows", "Part", "Ragged", "RowSubset", "ShardCache", "ShardInfo",
    "ShardedDataset", "StepFacts", "StepOrder", "StepRule", "StoredMatrix", "TextEncoder", "TextRows", "TokenizerInfo",
    "TrainLoader", "Vocabulary", "WindowRule", "Windows", "all_labelled_texts", "checked_vocabulary", "collate",
    "concatenate", "cut", "data_url", "described_parts", "epoch_order", "held_out_rows", "length_parts",
    "lengths_to_offsets", "load_tokenizer_of", "micro_batch_shapes", "most_bytes", "most_items", "num_held_out",
    "padded_lengths", "parts_of_names", "prefetch", "read_label_table", "read_sparse_npz", "read_vocabulary",
    "refuse_repeated_values", "refuse_second_validation", "require_parts", "require_parts_of_names", "resolve_encoder",
    "shown_label", "shown_labels", "stage", "step_facts", "tokenizer_fingerprint", "train_texts", "validation_texts",
    "verify", "window_rule", "with_names",
]  # fmt: skip
