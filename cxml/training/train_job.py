"""The training job, from a config to a saved model; every process runs it."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Mapping

from cxml import storage
from cxml.checkpoint import (
    Progress,
    TrainingState,
    candidate_checkpoints,
    gathered_clusters,
    model_url,
    require_best,
    resume,
    return_to_best,
    save_model,
)
from cxml.config import Config
from cxml.console import set_up_logging
from cxml.optim import Schedule
from cxml.parallel import Ranks, distributed, gathered_state_dict
from cxml.training.checkpoints import CheckpointCallback
from cxml.training.epoch_selection import write_selection
from cxml.training.flops import utilisation
from cxml.training.interruption import HangGuard, StopSignal
from cxml.training.loop import Callback, ReturnMemory, StepLimit, fit
from cxml.training.run_length import RunLength
from cxml.training.setting_up import set_up
from cxml.training.time_limit import AdaptiveStepLimit, TimeLimit
from cxml.training.tracked import tracking
from cxml.training.trackers import ConsoleTracker, JsonlTracker, TensorBoardTracker
from cxml.training.validation import EvaluateDuringTraining

_log = logging.getLogger(__name__)


def train(
    config: Config,
    fingerprints: Mapping[str, str],
    choice: str = "auto",
    end: int | TimeLimit | None = None,
) -> bool:
    """Train on the prepared data and tree of `config` and save the model. Runs in every process of the job.

    Args:
        config: the run's config.
        fingerprints: fingerprints of the model's inputs by `train.precision`; the one of the precision used is saved
            with the model.
        choice: the checkpoint to resume from, see `cxml.checkpoint.candidate_checkpoints`.
        end: number of epochs after which training ends, with the learning rates of `train.epochs`, or a time limit;
            None for all epochs without a time limit.

    Returns:
        Whether training finished. If not, a signal stopped it, and a checkpoint has its state.
    """
    with distributed(config.train.threads_per_worker, config.train.hang_minutes) as ranks:
        set_up_logging(is_main=ranks.is_first)
        return train_in_group(config, fingerprints, ranks, choice, end)


def train_in_group(
    config: Config,
    fingerprints: Mapping[str, str],
    ranks: Ranks,
    choice: str = "auto",
    end: int | TimeLimit | None = None,
) -> bool:
    """`train` in an existing process group."""
    began = time.monotonic()
    offered = candidate_checkpoints(config, ranks, choice)
    state, schedule = set_up(config, ranks, offered)
    config = state.config
    start = resume(state, offered) or Progress()
    fingerprint = fingerprints[config.train.precision]
    spent = start.used_seconds + time.monotonic() - began
    step_limit = _step_limit(state, start, dataclasses.replace(end, used=spent) if isinstance(end, TimeLimit) else end)
    with tracking(config, start, is_first=ranks.is_first) as tracked:
        if not _fit(state, schedule, start, step_limit, tracked=tracked, fingerprint=fingerprint):
            tracked.is_stopped = True
            return False
        weights = gathered_state_dict(state.engine, ranks) | gathered_clusters(state.model, ranks)
        save_model(
            model_url(config), state.model, weights, ranks,
            config=config, fingerprint=fingerprint, tree=state.tree_digest,
        )  # fmt: skip
    if ranks.is_first:
        _log.info("Model saved to %s", model_url(config))
    return True


def _step_limit(state: TrainingState, start: Progress, end: int | TimeLimit | None) -> StepLimit:
    """The step limit of the run: for a number of epochs, from `end` or the config, or for a time limit."""
    train, steps_per_epoch = state.config.train, state.loader.steps_per_epoch
    most = (end if isinstance(end, int) else train.epochs) * steps_per_epoch
    run_length = RunLength.from_state(start.run_length, min(train.steps or most, most))
    if isinstance(end, TimeLimit):
        return AdaptiveStepLimit(run_length, state.ranks, end, steps_per_epoch=steps_per_epoch)
    return StepLimit(run_length)


def _fit(
    state: TrainingState,
    schedule: Schedule,
    start: Progress,
    step_limit: StepLimit,
    *,
    tracked: Callback,
    fingerprint: str,
) -> bool:
    """Train to the end or until a stop signal. Returns whether training finished, so the weights are the model's."""
    config, ranks = state.config, state.ranks
    figures: dict[str, float] = {}
    guard = HangGuard(config.train.hang_minutes)
    records = _records(state, start) if ranks.is_first else None
    trackers = _trackers(state, records, tracked)
    callbacks = [guard, step_limit, *trackers, *([ReturnMemory()] if ranks.device.type == "cpu" else [])]
    evaluation = None
    if config.train.evaluation_interval and config.train.keep != "refit":  # the final fit has no validation texts
        evaluation = EvaluateDuringTraining(state, start, step_limit, trackers, figures)
        callbacks.append(evaluation)
    selecting = evaluation if config.train.keep == "best" else None
    if start.selection:
        require_best(state, int(start.selection["step"]))
    with contextlib.ExitStack() as stack:
        stack.callback(guard.close)
        if config.checkpoint.is_on or selecting is not None:
            stop = stack.enter_context(StopSignal())
            checkpoints = CheckpointCallback(
                state, start, stop, guard, figures, others=callbacks.copy(), records=records, evaluation=selecting
            )
            callbacks.append(checkpoints)
            stack.callback(checkpoints.close)
        is_finished = fit(
            state.engine, state.loader, schedule, ranks,
            step_limit=step_limit, record_every=config.log.every_steps, callbacks=callbacks, start=start,
            utilisation=utilisation(state.model, config, ranks.device),
        )  # fmt: skip
    if is_finished and selecting is not None:
        _take_best(state, selecting, fingerprint)
    return is_finished


def _take_best(state: TrainingState, evaluation: EvaluateDuringTraining, fingerprint: str) -> None:
    """Restore the weights of the best epoch, and store its number; a collective call."""
    found = evaluation.selection
    if not evaluation.has_best:
        return_to_best(state, found.step)
    if state.ranks.is_first:
        write_selection(
            state.config, found, last_epoch=evaluation.last_epoch, num_texts=evaluation.num_texts,
            fingerprint=fingerprint,
        )  # fmt: skip
        _log.info("The model takes the weights after epoch %d of %d", found.epoch, evaluation.last_epoch)


def _records(state: TrainingState, start: Progress) -> JsonlTracker:
    epochs_done = math.ceil(start.step / state.loader.steps_per_epoch) - start.before_epoch_end
    return JsonlTracker(storage.join(state.config.output, "metrics.jsonl"), start.step, epochs_done)


def _trackers(state: TrainingState, records: JsonlTracker | None, tracked: Callback) -> list[Callback]:
    config = state.config
    callbacks: list[Callback] = [tracked]
    if records is not None:
        callbacks += [records, ConsoleTracker(config.log.every_seconds)]
        if config.log.tensorboard:
            callbacks.append(TensorBoardTracker(storage.join(config.output, "tensorboard")))
    return callbacks
