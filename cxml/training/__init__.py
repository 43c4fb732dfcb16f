"""Training and evaluation of one model, in every process of a job.

config -> train(): data, tree, model, engine, loader, schedule, a checkpoint if there is one
       -> fit(): steps; callbacks log, evaluate, save checkpoints, guard against hanging -> saved model
config -> begin_evidence(), complete_evidence(): sources of labels beside a saved model, if asked for
config -> evaluate_run(): saved model -> predictions of the test split, spread over ranks -> metrics
"""

from cxml.training.checkpoints import CheckpointCallback
from cxml.training.evaluation import evaluate, level_truths, predict_split
from cxml.training.evidence import (
    begin_evidence,
    complete_evidence,
    evidence_url,
    no_validation_texts,
    remove_evidence,
)
from cxml.training.interruption import HangGuard, StopSignal
from cxml.training.jobs import evaluate_run, set_up, train
from cxml.training.loop import Callback, StepReport, fit
from cxml.training.precision import precision_here, with_precision
from cxml.training.step import train_step

__all__ = [
    "Callback",
    "CheckpointCallback",
    "HangGuard",
    "StepReport",
    "StopSignal",
    "begin_evidence",
    "complete_evidence",
    "evaluate",
    "evaluate_run",
    "evidence_url",
    "fit",
    "level_truths",
    "no_validation_texts",
    "precision_here",
    "predict_split",
    "remove_evidence",
    "set_up",
    "train",
    "train_step",
    "with_precision",
]
