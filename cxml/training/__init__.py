"""Training and evaluation of one model, in every process of a job.

config -> train(): data, tree, model, engine, loader, schedule -> fit(): steps; callbacks log -> saved model
config -> evaluate_run(): saved model -> predictions of the test split, spread over ranks -> metrics
"""

from cxml.training.evaluation import evaluate, level_truths, predict_split
from cxml.training.jobs import evaluate_run, train
from cxml.training.loop import Callback, StepReport, fit
from cxml.training.step import train_step

__all__ = [
    "Callback",
    "StepReport",
    "evaluate",
    "evaluate_run",
    "fit",
    "level_truths",
    "predict_split",
    "train",
    "train_step",
]
