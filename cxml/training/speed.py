"""Measure the speed of training and prediction on this machine with a few real steps, whose weights are discarded."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from cxml.accelerators import synchronize
from cxml.checkpoint import TrainingState
from cxml.config import Config
from cxml.console import set_up_logging
from cxml.data import Batch, RowSubset, ShardedDataset, data_url, window_rule
from cxml.model import LevelPrediction
from cxml.optim import Schedule
from cxml.parallel import Ranks, distributed, value_of_first
from cxml.training.decision_report import num_candidates
from cxml.training.evaluation import predict_share
from cxml.training.setting_up import set_up
from cxml.training.step import train_step

_UNTIMED = 2  # first steps, which fill caches and allocate memory
_FEWEST, _MOST = 3, 200  # timed steps
_BATCHES = 4  # most predicted batches
_IN_STEPS = 0.5  # of the time of the measurement


@dataclass(frozen=True)
class Speed:
    """The measured speed of all processes together.

    Attributes:
        steps_per_epoch: optimiser steps.
        step_seconds: seconds per optimiser step.
        text_seconds: seconds per predicted text.
        seconds: duration of the measurement.
    """

    steps_per_epoch: int
    step_seconds: float
    text_seconds: float
    seconds: float


def measure_speed(config: Config, seconds: float, most: float) -> Speed:
    """Time the training and prediction of a run before it starts. Runs in every process of the job.

    Args:
        config: config of the run.
        seconds: approximate time for the timed steps; a few steps are always timed.
        most: approximate limit of the whole measurement. If a few steps would take half of it, only the second one is
            timed.
    """
    with distributed(config.train.threads_per_worker, config.train.hang_minutes) as ranks:
        set_up_logging(is_main=ranks.is_first)
        # Centroids would take a pass over all texts, without an effect on the time of steps.
        fresh = dataclasses.replace(config, model=dataclasses.replace(config.model, classifier_start="fresh"))
        state, schedule = set_up(fresh, ranks)
        began = time.perf_counter()
        step_seconds = _time_steps(state, schedule, ranks, seconds, _IN_STEPS * most)
        left = max(most - (time.perf_counter() - began), 0.0)
        texts_per_step = len(ShardedDataset(data_url(config), "train")) / state.loader.steps_per_epoch
        text_seconds = _time_prediction(state, ranks, round(left / step_seconds * texts_per_step))
        figures = value_of_first((step_seconds, text_seconds, time.perf_counter() - began))
        return Speed(state.loader.steps_per_epoch, *figures)


def _time_steps(state: TrainingState, schedule: Schedule, ranks: Ranks, seconds: float, most: float) -> float:
    """Mean seconds per step. The first rank's first steps determine the number of timed steps."""
    state.engine.train()
    began, untimed, timed, wanted = _now(ranks), _UNTIMED, 0, _FEWEST
    for step, micro_batches in enumerate(_batches(state)):
        if step == untimed:
            began = _now(ranks)
        schedule.apply(0.0)
        train_step(state.engine, micro_batches, ranks, step + 1)
        if step == 0 and value_of_first((_now(ranks) - began) * (_UNTIMED + _FEWEST) > most):
            untimed, wanted = 1, 1
        timed = step + 1 - untimed
        if timed == wanted == _FEWEST:
            affordable = round(seconds / max((_now(ranks) - began) / timed, 1e-9))
            wanted = value_of_first(min(max(affordable, _FEWEST), _MOST))
        if timed == wanted:
            break
    return (_now(ranks) - began) / timed


def _batches(state: TrainingState) -> Iterator[list[Batch]]:
    """The batches of successive epochs, because a small data set has few steps per epoch."""
    epoch = 0
    while True:
        yield from state.loader.epoch(epoch)
        epoch += 1


def _time_prediction(state: TrainingState, ranks: Ranks, affordable: int) -> float:
    """Seconds per text, from texts spread over the train split; the predictions are discarded.

    The test split of rows in memory has only one text, whose prediction says nothing about that of many.

    Args:
        state: state of the run.
        ranks: the ranks of this process.
        affordable: number of texts that training processes in the available time; prediction takes less.
    """
    config, split = state.config.evaluate, ShardedDataset(data_url(state.config), "train")
    most = min(len(split), _BATCHES * config.batch_size * ranks.world_size)
    wanted = value_of_first(min(max(affordable, ranks.world_size), most))
    texts = RowSubset(split, np.linspace(0, len(split) - 1, wanted).astype(np.int64))
    state.engine.eval()

    @torch.no_grad()
    def predict(batch: Batch, k: int) -> list[LevelPrediction]:
        return state.engine(batch, predict_k=k)

    windows, num_labels = window_rule(state.config, device=ranks.device), num_candidates(split.manifest.rows("test"))
    first = RowSubset(split, texts.rows[::_BATCHES])  # of all lengths, for which code may have to be compiled
    predict_share(predict, first, state.tree, config, ranks, num_labels=num_labels, windows=windows)
    began = _now(ranks)
    predict_share(predict, texts, state.tree, config, ranks, num_labels=num_labels, windows=windows)
    return (_now(ranks) - began) / wanted


def _now(ranks: Ranks) -> float:
    synchronize(ranks.device)
    return time.perf_counter()
