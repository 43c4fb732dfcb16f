"""Time budget of a run: its distribution over the stages, and the resulting number of steps (docs/decisions/0029).

    time used so far, measured speed, sizes of the splits --steps_within_budget--> budget.json
        -> train.steps, and the fields that depend on it

The number of steps is computed once, before the training. `budget.json` in the output stores it, and the time that
earlier starts have used.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxml import artefacts, storage
from cxml.artefacts import read_records
from cxml.config import Config, metric_cutoff
from cxml.console import counted
from cxml.data import VALIDATION, DataManifest, data_url, validation_texts
from cxml.evidence import train_word_model
from cxml.launching import RunJob
from cxml.pipeline.budget_clock import MARGIN, BudgetClock, no_time_to_train
from cxml.pipeline.resolved_config import adapt_to_steps, settings_fingerprint
from cxml.settings import Choice, add_to_record, read_budget, write_budget
from cxml.training import Speed, TimeLimit, measure_speed, train_texts_of
from cxml.tree import LabelTree, tree_url

_log = logging.getLogger(__name__)

_TIMED = 0.02  # of the remaining budget, for the timed steps
_MEASURED = 0.1  # of the remaining budget, for the whole measurement after its start
_MOST_TIMED = 30.0  # most seconds of timed steps
_SHARE_OF_A_SOURCE = 0.2  # of the time for steps and sources that an open source may take
_WORD_TEXTS = 2000  # used to time the linear model


@dataclass(frozen=True)
class Costs:
    """Time of a run besides its training steps, in seconds.

    Attributes:
        job: starting the processes of a job and loading the model.
        start: work of a training before its first step.
        epoch_end: evaluation at the end of an epoch, on average over all epochs.
        after: all stages after the training.
    """

    job: float
    start: float
    epoch_end: float
    after: float


@dataclass(frozen=True)
class StepBudget:
    """The plan of a budget.

    Attributes:
        budget: seconds of the whole run.
        used: seconds used before the number of steps was computed.
        training: seconds for the training, from the start of its processes' work.
        steps: optimiser steps within the budget, at most those of all epochs.
        most: optimiser steps of all epochs.
        epochs: passes over the texts in these steps.
        speed: measured speed.
        costs: estimated times.
    """

    budget: float
    used: float
    training: float
    steps: int
    most: int
    epochs: float
    speed: Speed
    costs: Costs

    @property
    def time_limit(self) -> TimeLimit:
        """The time limit of the training."""
        return TimeLimit(self.training, self.most, self.costs.epoch_end)

    def __str__(self) -> str:
        """For people."""
        steps = f"{'all ' if self.steps == self.most else ''}{counted(self.steps, 'step')}"
        epochs = f"{self.epochs:.2f} of {counted(math.ceil(self.most / self.speed.steps_per_epoch), 'epoch')}"
        return (
            f"budget of {self.budget:.0f} s: {self.used:.0f} s used, about {self.costs.after:.0f} s needed after "
            f"training, {self.speed.step_seconds:.3g} s per step: enough for {steps}, {epochs}"
        )


def steps_within_budget(budget: float, used: float, speed: Speed, costs: Costs, most: int) -> StepBudget:
    """The steps that fit into the remaining budget.

    Args:
        budget: seconds of the whole run.
        used: used seconds.
        speed: speed of the run on this machine.
        costs: times besides steps.
        most: steps of the run without a budget.

    Raises:
        ConfigError: no step fits.
    """
    training = (1 - MARGIN) * budget - used - costs.job - costs.after
    in_steps = training - costs.start - costs.epoch_end
    per_step = speed.step_seconds + costs.epoch_end / speed.steps_per_epoch
    if in_steps < per_step:
        other = costs.job + costs.start + costs.epoch_end + costs.after
        raise no_time_to_train(budget, used, f"other work takes about {other:.0f} s", used + other + per_step)
    steps = min(int(in_steps / per_step), most)
    return StepBudget(budget, used, training, steps, most, steps / speed.steps_per_epoch, speed, costs)


def effect_of_more_time(is_whole: bool, curve: Sequence[tuple[int, float]], metric: str) -> str:
    """The expected effect of a larger budget.

    Args:
        is_whole: whether all epochs fit.
        curve: epoch and metric of each evaluation on validation texts, in order.
        metric: name of the metric.
    """
    if is_whole:
        return "All epochs fit: more time has no effect unless train.epochs is increased."
    if len(curve) < 2:
        return (
            "The effect of more time is unknown: estimating it needs two evaluations on validation texts "
            "(train.validation_fraction and train.evaluate_every)."
        )
    (before, low), (after, high) = curve[-2:]
    gained = f"From epoch {before} to {after}, {metric} went from {low:.2f} to {high:.2f} on validation texts"
    if high <= low:
        return f"{gained}: more time is unlikely to improve it."
    return f"{gained}: a longer run is likely to improve it further, with diminishing gains per epoch."


# The budget of a run


def make_step_budget(config: Config, fitted: Config, clock: BudgetClock, run_job: RunJob, *, evaluates: bool) -> None:
    """Measure the speed of a run with finished data and tree, and store the steps within its budget in its output.

    Args:
        config: the user's config.
        fitted: the config without open fields.
        clock: clock of the run.
        run_job: starts the processes of a training.
        evaluates: whether the run ends with an evaluation on the test split; if not, it predicts the validation texts.

    Raises:
        ConfigError: the budget leaves no time to train.
    """
    began = time.monotonic()
    speed = _measure(fitted, clock, run_job, evaluates=evaluates)
    job = max(time.monotonic() - began - speed.seconds, 0.0)
    seconds = _source_seconds(fitted, speed)
    bare = _costs(fitted, speed, job, {}, evaluates=evaluates)
    dropped = costly_sources(config, seconds, clock.left - bare.job - bare.start - bare.after)
    for choice in dropped:
        _log.info("%s is off: %s", choice.name, choice.reason)
        del seconds[choice.name.removeprefix("evidence.")]
    costs = _costs(fitted, speed, job, seconds, evaluates=evaluates)
    most = fitted.train.epochs * speed.steps_per_epoch
    most = min(fitted.train.steps or most, most)
    step_budget = steps_within_budget(clock.budget, clock.used, speed, costs, most)
    _log.info("%s", step_budget)
    adapted = adapt_to_steps(config, fitted, step_budget.steps) if step_budget.steps < most else []
    choices = [*dropped, *adapted]
    values = {choice.name: choice.value for choice in choices}
    kept = {"fingerprint": settings_fingerprint(config), "plan": dataclasses.asdict(step_budget), "values": values}
    add_to_record(
        config.output, "budget", {"plan": str(step_budget), "choices": [dataclasses.asdict(c) for c in choices]}
    )
    write_budget(config.output, kept)  # last, because a later start keeps a plan that it finds


def _measure(config: Config, clock: BudgetClock, run_job: RunJob, *, evaluates: bool) -> Speed:
    """Measure the speed of a run. Gives up if later starts of processes, as slow as this one, leave no time to train.

    Processes of a launcher are started once, before the run.
    """
    left = clock.left
    most = _MEASURED * max(left, 0.0)
    predicts = evaluates or _num_validation(config) > 0
    jobs = 1 + predicts + bool(config.evidence.sources)  # that follow
    limit = (left + jobs * most) / (1 + jobs)
    is_launched = "WORLD_SIZE" in os.environ
    start, in_steps = max(limit - most, 0.0), min(_TIMED * max(left, 0.0), _MOST_TIMED)
    problem = f"starting processes takes {start:.0f} s or more, {counted(jobs, 'more time')}"
    with contextlib.nullcontext() if is_launched else clock.limited(limit, problem, jobs * start):
        return run_job(measure_speed, (config, in_steps, most), config.train.num_workers)


def kept_step_budget(config: Config) -> StepBudget | None:
    """The stored budget of a run; None if there is none, or it belongs to other data or settings.

    Args:
        config: the user's config.

    Raises:
        DataError: the file is damaged.
    """
    kept = read_budget(config.output)
    return _parse(config.output, kept) if kept.get("fingerprint") == settings_fingerprint(config) else None


def time_limit(output: str) -> TimeLimit:
    """The time limit of the training of the run in `output`, from its budget."""
    return _parse(output, read_budget(output)).time_limit


def _parse(output: str, kept: Mapping[str, Any]) -> StepBudget:
    return artefacts.parse_as(StepBudget, kept.get("plan", {}), output, "Train again with --force train.")


def budget_report(config: Config) -> dict[str, str]:
    """The part of a report about the budget of a run with a finished training.

    Returns:
        `plan`, the use of the budget, and `more`, the expected effect of a larger one.
    """
    step_budget = _parse(config.output, read_budget(config.output))
    records = [record for _, record in read_records(storage.join(config.output, "metrics.jsonl"))]
    steps = max((record["step"] for record in records if record["kind"] == "train"), default=0)
    evaluated = [
        record for record in records if record["kind"] == "evaluate" and record.get("split") == VALIDATION
    ]  # fmt: skip
    metric = _compared_metric(config, [record["levels"][-1] for record in evaluated])
    curve = [(record["epoch"], record["levels"][-1][metric]) for record in evaluated] if metric else []
    trained = f"trained: {counted(steps, 'step')}, {steps / step_budget.speed.steps_per_epoch:.2f} epochs"
    return {"plan": f"{step_budget}; {trained}", "more": effect_of_more_time(steps >= step_budget.most, curve, metric)}


def _compared_metric(config: Config, evaluations: Sequence[Mapping[str, float]]) -> str:
    """The metric that all evaluations of a training report: train.keep_by, or nDCG at the largest k; empty if none.

    A run may be resumed and evaluated again with other cut-offs.
    """
    common = set.intersection(*map(set, evaluations)) if evaluations else set()
    others = sorted(
        (name for name in common if name.startswith("nDCG@")), key=lambda name: metric_cutoff(name) or 0, reverse=True
    )
    return next((name for name in (config.train.keep_by, *others) if name in common), "")


def costly_sources(config: Config, seconds: Mapping[str, float], left: float) -> list[Choice]:
    """Turn off the open sources of evidence that would take more than a fifth of the time that training needs too.

    Args:
        config: the user's config.
        seconds: time of each source.
        left: seconds for training steps and sources together.
    """
    return [
        Choice(f"evidence.{name}", False, f"it would take {taken:.0f} s of {left:.0f} s for training and evidence")
        for name, taken in seconds.items()
        if f"evidence.{name}" in config.auto and taken > _SHARE_OF_A_SOURCE * left
    ]


def _source_seconds(config: Config, speed: Speed) -> dict[str, float]:
    """Estimated time to make each source of evidence of the config."""
    manifest = DataManifest.read(data_url(config))
    makes = {
        "words": lambda: _seconds_of_words(config),
        "neighbours": lambda: manifest.rows("train") * speed.text_seconds,
        "names": lambda: manifest.num_labels * speed.text_seconds,
    }
    return {name: makes[name]() for name in config.evidence.sources}


def _costs(config: Config, speed: Speed, job: float, sources: Mapping[str, float], *, evaluates: bool) -> Costs:
    """The times of a run besides steps, at the measured speed; `sources` has the seconds of each."""
    manifest, validation = DataManifest.read(data_url(config)), _num_validation(config)
    predicted = (manifest.rows("test") if evaluates else 0) + validation
    after = job + predicted * speed.text_seconds if predicted else 0.0
    if sources:
        after += job + validation * speed.text_seconds + sum(sources.values())
    interval, evaluated = config.train.evaluation_interval, validation or manifest.rows("test")
    is_centred = config.model.classifier_start == "centroids"
    return Costs(
        job=job,
        start=manifest.rows("train") * speed.text_seconds if is_centred else 0.0,
        epoch_end=evaluated * speed.text_seconds / interval if interval else 0.0,
        after=after,
    )


def _num_validation(config: Config) -> int:
    texts = validation_texts(data_url(config), config.train.validation_fraction)
    return 0 if texts is None else len(texts)


def _seconds_of_words(config: Config) -> float:
    """Estimated seconds of the linear model, extrapolated linearly from a part of the texts."""
    texts = train_texts_of(config)
    rows = np.unique(np.linspace(0, len(texts) - 1, min(len(texts), _WORD_TEXTS)).astype(np.int64))
    features, labels = texts.features(rows), texts.labels_csr()[rows]
    tree = LabelTree.load(tree_url(config))
    train_word_model(features[:2], labels[:2], tree, seed=config.seed)  # compiles the code first
    began = time.monotonic()
    train_word_model(features, labels, tree, seed=config.seed)
    return (time.monotonic() - began) * len(texts) / len(rows)
