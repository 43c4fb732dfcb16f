"""Prediction with a trained model. Needs neither Ray nor DeepSpeed.

Input: a run, a checkpoint or an exported folder, and texts.

1. `load_parts` reads the `Parts`: model, tree, label rows, names and tokenizer.
2. `Predictor` checks its arguments (`arguments`).
3. `CascadeRunner` tokenises texts, sorts them into batches of similar lengths, and runs the model.
4. `Ranker` ranks the labels of each text.

Output: `Predictions`: label ids, names and scores.

Label rows can use 4, 2 or 1 bytes per weight, be memory-mapped, or be sharded over ranks (`PackedRows`). With
thresholds chosen on validation texts, `Decisions` converts rankings to label sets, and scores to probabilities.
`Predictor.save_pretrained` writes all of it to one folder, with a model card.
"""

from cxml.prediction.decisions import (
    Decisions,
    as_threshold,
    choose_decisions,
    decisions_as_json,
    parse_threshold,
    read_run_decisions,
    write_run_decisions,
)
from cxml.prediction.encoder_precision import encoder_in, require_precision
from cxml.prediction.encoder_program import export_encoder, refuse_windows
from cxml.prediction.export import is_exported, read_exported, write_exported
from cxml.prediction.hub import upload
from cxml.prediction.packed_rows import PackedRows, RowFormat
from cxml.prediction.parts import Parts, model_identity, read_decisions, read_parts
from cxml.prediction.predictor import Predictor
from cxml.prediction.rare_labels import adjust_logits, require_power, weigh_labels
from cxml.prediction.results import ExplainedLabel, NamedLabel, PathNode, Predictions, as_values
from cxml.prediction.score_files import read_scores, scores_as_npz, write_scores

__all__ = [
    "Decisions",
    "ExplainedLabel",
    "NamedLabel",
    "PackedRows",
    "Parts",
    "PathNode",
    "Predictions",
    "Predictor",
    "RowFormat",
    "adjust_logits",
    "as_threshold",
    "as_values",
    "choose_decisions",
    "decisions_as_json",
    "encoder_in",
    "export_encoder",
    "is_exported",
    "model_identity",
    "parse_threshold",
    "read_decisions",
    "read_exported",
    "read_parts",
    "read_run_decisions",
    "read_scores",
    "refuse_windows",
    "require_power",
    "require_precision",
    "scores_as_npz",
    "upload",
    "weigh_labels",
    "write_exported",
    "write_run_decisions",
    "write_scores",
]
