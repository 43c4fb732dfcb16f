"""Evaluation during training, selection of the best epoch, and early stopping."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

import torch

from cxml.checkpoint import Progress, TrainingState
from cxml.data import VALIDATION, Batch, ShardedDataset, data_url, validation_texts, window_rule
from cxml.model import LevelPrediction
from cxml.parallel import value_of_first
from cxml.training.epoch_selection import Selection
from cxml.training.evaluation import evaluate, propensity_weights
from cxml.training.loop import Callback, Evaluation, StepLimit

_log = logging.getLogger(__name__)


class EvaluateDuringTraining(Callback):
    """Evaluates the validation texts, or else the test split, every few epochs.

    The metrics only affect the training if `train.keep` requests it, and then they are those of validation texts.
    """

    def __init__(
        self, state: TrainingState, start: Progress, step_limit: StepLimit, trackers: Sequence[Callback],
        figures: dict[str, float],
    ) -> None:  # fmt: skip
        """Create the callback.

        Args:
            state: state of the run.
            start: progress of the run.
            step_limit: length of the run.
            trackers: callbacks that receive each evaluation.
            figures: filled with the metrics of the last evaluation.
        """
        self._config = state.config
        self._engine = state.engine
        self._tree = state.tree
        self._ranks = state.ranks
        self._windows = window_rule(state.config, device=state.ranks.device)
        self._measured = dataclasses.replace(state.config.evaluate, top_k=state.config.training_cutoffs)
        self._trackers = trackers
        self._figures = figures
        validation = validation_texts(data_url(self._config), self._config.train.validation_fraction)
        self._split = "test" if validation is None else VALIDATION
        self._texts = ShardedDataset(data_url(self._config), "test") if validation is None else validation
        self._step = start.step
        self.selection = Selection.from_state(start.selection)
        self.last_epoch = start.step // state.loader.steps_per_epoch
        self._step_limit = step_limit
        self._steps_per_epoch = state.loader.steps_per_epoch
        self._check_patience()

    @property
    def num_texts(self) -> int:
        """Number of evaluated texts."""
        return len(self._texts)

    @property
    def has_best(self) -> bool:
        """Whether the current weights are those of the best epoch so far."""
        return 0 < self.selection.step == self._step

    def on_step_end(self, progress: Progress) -> None:
        """Store the step for the next evaluation."""
        self._step = progress.step

    def on_epoch_end(self, epoch: int) -> None:
        """Evaluate if this epoch is due. An epoch that may become the model is always evaluated."""
        train = self._config.train
        self.last_epoch = epoch
        is_last = self._step >= self._step_limit.run_length.total
        if epoch % train.evaluation_interval and not (train.selects and is_last):
            return
        self._engine.eval()
        levels = evaluate(
            self._predict, self._texts, self._tree, propensity_weights(self._config),
            config=self._measured, ranks=self._ranks, windows=self._windows,
        )  # fmt: skip
        self._engine.train()
        self._figures.update(levels[-1])
        for tracker in self._trackers:
            tracker.on_evaluation(Evaluation(self._step, epoch, self._split, levels))
        if self._ranks.is_first:
            shown = " ".join(f"{name} {value:.2f}" for name, value in levels[-1].items())
            _log.info("Epoch %d, %s: %s", epoch, self._split, shown)
        if train.selects:
            self._select(epoch, levels[-1][train.keep_by])

    def describe(self, progress: Progress) -> Progress:
        """Add the best epoch so far."""
        return dataclasses.replace(progress, selection=self.selection.state_dict())

    def _select(self, epoch: int, value: float) -> None:
        """Compare with earlier epochs, using the first rank's value so that all ranks make the same decision."""
        self.selection = self.selection.after(epoch, self._step, value_of_first(value))
        self._check_patience()
        if self._ranks.is_first:
            best = self.selection
            _log.info("Best by %s so far: %.2f after epoch %d", self._config.train.keep_by, best.value, best.epoch)

    def _check_patience(self) -> None:
        self.is_finished = self.selection.should_stop(self._config.train.patience)

    @torch.no_grad()  # not inference_mode: ZeRO-3 would keep its tensors for training
    def _predict(self, batch: Batch, k: int) -> list[LevelPrediction]:
        return self._engine(batch, predict_k=k)
