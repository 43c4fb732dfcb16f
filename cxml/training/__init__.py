"""Training and evaluation of one model, in every process of a job.

Input: a config, a prepared data set and a label tree.

1. `train` builds model, engine, loader and schedule, and loads a checkpoint if there is one. `tracking` opens the
   runs of experiment trackers.
2. `fit` takes the steps. Callbacks log, evaluate, save checkpoints and detect hangs.
3. `train` saves the model with the weights of the last epoch, or of the best one on validation texts.
4. `begin_evidence` and `complete_evidence` add sources of labels to a saved model.
5. `evaluate_run` predicts the test split, distributed over the ranks. It also chooses thresholds on the validation
   texts, as `decide_run` does without a test split.

Output: a saved model, and its metrics.
"""

from cxml.training.checkpoints import CheckpointCallback
from cxml.training.epoch_selection import (
    Selection,
    keep_selection,
    read_selection,
    selection_run,
    selection_url,
    train_texts_of,
    validated_run,
)
from cxml.training.evaluate_job import decide_run, evaluate_run
from cxml.training.evaluation import evaluate, level_truths, predict_split
from cxml.training.evidence import (
    begin_evidence,
    complete_evidence,
    evidence_url,
    no_validation_texts,
    remove_evidence,
)
from cxml.training.interruption import HangGuard, StopSignal
from cxml.training.loop import Callback, StepLimit, StepReport, fit
from cxml.training.precision import precision_here, with_precision
from cxml.training.run_length import RunLength, smoothed, steps_in_time
from cxml.training.setting_up import set_up, splits_batches
from cxml.training.speed import Speed, measure_speed
from cxml.training.step import train_step
from cxml.training.time_limit import AdaptiveStepLimit, TimeLimit
from cxml.training.tracked import ending_lost_runs, require_trackers, track_report
from cxml.training.train_job import train

__all__ = [
    "AdaptiveStepLimit",
    "Callback",
    "CheckpointCallback",
    "HangGuard",
    "RunLength",
    "Selection",
    "Speed",
    "StepLimit",
    "StepReport",
    "StopSignal",
    "TimeLimit",
    "begin_evidence",
    "complete_evidence",
    "decide_run",
    "ending_lost_runs",
    "evaluate",
    "evaluate_run",
    "evidence_url",
    "fit",
    "keep_selection",
    "level_truths",
    "measure_speed",
    "no_validation_texts",
    "precision_here",
    "predict_split",
    "read_selection",
    "remove_evidence",
    "require_trackers",
    "selection_run",
    "selection_url",
    "set_up",
    "smoothed",
    "splits_batches",
    "steps_in_time",
    "track_report",
    "train",
    "train_step",
    "train_texts_of",
    "validated_run",
    "with_precision",
]
