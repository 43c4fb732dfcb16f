"""Training and evaluation of one model, in every process of a job.

config -> train(): data, tree, model, engine, loader, schedule, a checkpoint if there is one
       -> tracking(): runs of experiment trackers, if asked for
       -> fit(): steps; callbacks log, evaluate, save checkpoints, guard against hanging -> saved model
config -> train_words(), combine_words(): words beside a saved model, if asked for
config -> evaluate_run(): saved model -> predictions of the test split, spread over ranks -> metrics
"""

from cxml.training.checkpoints import CheckpointCallback
from cxml.training.evaluation import evaluate, level_truths, predict_split
from cxml.training.interruption import HangGuard, StopSignal
from cxml.training.jobs import evaluate_run, set_up, train
from cxml.training.loop import Callback, StepReport, fit
from cxml.training.precision import precision_here, with_precision
from cxml.training.step import train_step
from cxml.training.tracked import ending_lost_runs, require_trackers, track_report
from cxml.training.words import combine_words, no_validation_texts, train_words, words_url

__all__ = [
    "Callback",
    "CheckpointCallback",
    "HangGuard",
    "StepReport",
    "StopSignal",
    "combine_words",
    "ending_lost_runs",
    "evaluate",
    "evaluate_run",
    "fit",
    "level_truths",
    "no_validation_texts",
    "precision_here",
    "predict_split",
    "require_trackers",
    "set_up",
    "track_report",
    "train",
    "train_step",
    "train_words",
    "with_precision",
    "words_url",
]
