"""Save and restore the state of a training run: tensors as pieces, the rest as `RunState`.

run/losses/RANK   losses since the last record, float32 [levels]
run/random/RANK   state of torch's generators, uint8
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader
from torch.distributed.checkpoint.api import CheckpointException

from cxml.checkpoint.compatibility import check_same_run
from cxml.checkpoint.engine_state import (
    finish_loading,
    optimizer_step,
    parameter_shards,
    pieces_to_load,
    pieces_to_save,
)
from cxml.checkpoint.manifest import SKIPPED, RunState
from cxml.checkpoint.pieces import LoadPlanner, Pieces
from cxml.checkpoint.row_arrays import SavedLevel
from cxml.checkpoint.row_state import load_engine_rows, load_rows, rows_to_save, schedule_to_save
from cxml.checkpoint.shards import ShardReader
from cxml.config import Config, config_to_dict
from cxml.data import TrainLoader
from cxml.errors import CxmlError, DataError
from cxml.internals.torch import load_state_dict
from cxml.model import CascadeXML, EngineHead
from cxml.parallel import Engine, Ranks, ShardedLevel
from cxml.tree import LabelTree


@dataclass(frozen=True)
class Progress:
    """The progress of the training loop.

    Attributes:
        step: completed optimiser steps.
        losses: this rank's summed level losses since the last record, float32 [levels]; None right after one.
        unrecorded_steps: number of steps in `losses`.
        before_epoch_end: the last step of an epoch is done, but the work after it, such as an evaluation, is not.
        selection: the best epoch so far, see `RunState`.
        run_length: the plans of the run, see `RunState.pace`.
        used_seconds: see `RunState`.
    """

    step: int = 0
    losses: Tensor | None = None
    unrecorded_steps: int = 0
    before_epoch_end: bool = False
    selection: dict[str, float] = field(default_factory=dict)
    run_length: list[list[int]] = field(default_factory=list)
    used_seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class Snapshot:
    """This rank's part of a run's state to save.

    Attributes:
        run: the state besides tensors.
        pieces: pieces by tensor name, as views of the run's memory, which the next step changes. `on_host` copies them.
    """

    run: RunState
    pieces: dict[str, Pieces]

    @property
    def num_bytes(self) -> int:
        """Bytes of this rank's pieces."""
        return sum(pieces.num_bytes for pieces in self.pieces.values())

    def on_host(self) -> Snapshot:
        """A copy in host memory."""
        return Snapshot(self.run, {name: pieces.on_host() for name, pieces in self.pieces.items()})


@dataclass(frozen=True, eq=False)
class TrainingState:
    """The parts of a run that change during training, on one rank."""

    config: Config
    engine: Engine
    tree: LabelTree
    loader: TrainLoader
    ranks: Ranks

    @cached_property
    def tree_digest(self) -> str:
        """See `tree_digest`; cached, because training waits for it in every save."""
        return tree_digest(self.tree)

    @property
    def model(self) -> CascadeXML:
        """The model inside the engine."""
        return cast(CascadeXML, self.engine.module)

    def state_dict(self, progress: Progress, metrics: dict[str, float]) -> Snapshot:
        """A snapshot of this rank's state, as views."""
        head, ranks = self.model.label_head, self.ranks
        pieces = pieces_to_save(parameter_shards(self.engine, ranks), ranks)
        row_schedule = {}
        for saved, level in self._levels():
            if isinstance(level, ShardedLevel):
                pieces |= rows_to_save(level, saved)
        if isinstance(head, ShardedLevel):
            if ranks.is_first:
                pieces |= schedule_to_save(head)
            schedule = head.schedule
            row_schedule = {"step": schedule.step, "lr": schedule.lr, "beta1": schedule.beta1, "beta2": schedule.beta2}
        pieces[f"run/random/{ranks.rank:05d}"] = Pieces.whole(_random_state())
        if progress.losses is not None:
            pieces[f"run/losses/{ranks.rank:05d}"] = Pieces.whole(progress.losses.to("cpu", torch.float32, copy=True))
        run = RunState(
            step=progress.step,
            world_size=ranks.world_size,
            config=config_to_dict(self.config),
            encoder=self.model.encoder.transformer.config.to_dict(),
            tree=self.tree_digest,
            loader=self.loader.state_dict(),
            optimizer_step=optimizer_step(self.engine),
            num_labels=self.tree.num_labels,
            width=self.model.encoder.hidden_size,
            label_head=self.config.head.implementation,
            row_schedule={name: float(value) for name, value in row_schedule.items()},
            unrecorded_steps=progress.unrecorded_steps,
            before_epoch_end=progress.before_epoch_end,
            metrics=metrics,
            selection=progress.selection,
            pace=progress.run_length,
            used_seconds=progress.used_seconds,
        )
        return Snapshot(run, pieces)

    def load_state_dict(self, reader: ShardReader) -> Progress:
        """Restore the state of a checkpoint of any number of ranks, ZeRO stage and label head.

        A collective call. With the same number of ranks, the resumed run is bit-identical to an uninterrupted one.

        Raises:
            StaleArtefactError: it belongs to a run with other data or settings.
            DataError: it is damaged. The state is partly overwritten, so another checkpoint must be loaded.
        """
        run = reader.manifest.run
        check_same_run(run, self.config, self.tree_digest, reader.url)
        epoch, step = self.loader.load_state_dict(run.loader)
        expected = epoch * self.loader.steps_per_epoch + step
        if run.step != expected or expected > self.config.train.epochs * self.loader.steps_per_epoch:
            problem = f"was saved after {run.step} steps, but its loader is at step {expected}"
            raise DataError(reader.url, problem, SKIPPED)
        shards = parameter_shards(self.engine, self.ranks)
        if run.num_labels != self.tree.num_labels:
            raise DataError(reader.url, f"has {run.num_labels} labels, expected {self.tree.num_labels}", SKIPPED)
        elsewhere = [saved for saved, _ in self._levels() if not saved.are_parameters(reader)]
        in_pieces = [shard for shard in shards if not any(saved.matches(shard.name) for saved in elsewhere)]
        load_pieces(reader, pieces_to_load(in_pieces))
        for saved, level in self._levels():
            if isinstance(level, ShardedLevel):
                load_rows(level, saved, reader)
            elif saved in elsewhere:
                block_rows = level.block_rows if isinstance(level, EngineHead) else saved.num_rows
                load_engine_rows(shards, saved, block_rows, reader)
        self._put_random(reader)
        return Progress(
            run.step, self._losses(reader), run.unrecorded_steps, run.before_epoch_end, run.selection, run.pace,
            run.used_seconds,
        )  # fmt: skip

    def _levels(self) -> list[tuple[SavedLevel, object]]:
        """The location of every level in a checkpoint, with the level itself, labels last."""
        model, sizes = self.model, self.tree.level_sizes
        *widths, label_width = model.encoder.feature_sizes
        nodes = zip(sizes[:-1], widths, strict=True)
        places = [SavedLevel.clusters(level, size, width) for level, (size, width) in enumerate(nodes)]
        levels = (*model.cluster_heads, *model.cluster_levels, model.label_head)
        return list(zip([*places, SavedLevel.labels(sizes[-1], label_width)], levels, strict=True))

    def finish(self, reader: ShardReader) -> None:
        """Complete `load_state_dict` in the engine after every rank has called it; a collective call."""
        finish_loading(self.engine, reader.manifest.run.optimizer_step)

    def _put_random(self, reader: ShardReader) -> None:
        run, rank = reader.manifest.run, self.ranks.rank
        if run.world_size == self.ranks.world_size:
            try:
                _set_random_state(reader.tensor(f"run/random/{rank:05d}"))
            except (RuntimeError, TypeError) as error:
                raise DataError(reader.url, f"contains no valid random state ({error})", SKIPPED) from error
        else:  # no sequence to continue, so derive a new one from the run's state
            seed = np.random.SeedSequence([self.config.seed, run.step, rank, self.ranks.world_size])
            torch.manual_seed(int(seed.generate_state(1)[0]))

    def _losses(self, reader: ShardReader) -> Tensor | None:
        """This rank's losses; with another number of ranks, the sum of all on the first rank."""
        run = reader.manifest.run
        if not run.unrecorded_steps:
            return None
        everybody = [reader.tensor(f"run/losses/{rank:05d}") for rank in range(run.world_size)]
        if any(losses.shape != (len(self.tree.level_sizes),) for losses in everybody):
            raise DataError(reader.url, "contains losses of another number of levels", SKIPPED)
        if run.world_size == self.ranks.world_size:
            return everybody[self.ranks.rank]
        return torch.stack(everybody).sum(0) * (1.0 if self.ranks.is_first else 0.0)


def load_pieces(reader: ShardReader, pieces: dict[str, Pieces]) -> None:
    """Load pieces from a checkpoint, on each rank independently.

    Raises:
        DataError: a piece is missing or damaged, or has another size.
    """
    try:
        _load_alone(dict(pieces), storage_reader=reader, planner=LoadPlanner(reader.url))
    except CheckpointException as error:
        raise first_failure(error) from None


def first_failure(error: CheckpointException) -> BaseException:
    """Choose one error from the ranks' failures in a `CheckpointException`: an error of cxml, or the first."""
    failures = [failure for failure, _ in error.failures.values()]
    return next((failure for failure in failures if isinstance(failure, CxmlError)), failures[0])


def tree_digest(tree: LabelTree) -> str:
    """A hash of the tree: the positions of the labels, and their clusters."""
    digest = hashlib.sha256()
    for array in (tree.label_order, *tree.offsets):
        digest.update(np.ascontiguousarray(array, np.int64).tobytes())
    return digest.hexdigest()[:16]


def _random_state() -> Tensor:
    states = [torch.get_rng_state()]
    if torch.cuda.is_available():
        states.append(torch.cuda.get_rng_state())
    return torch.cat(states)


def _set_random_state(states: Tensor) -> None:
    size = len(torch.get_rng_state())
    torch.set_rng_state(states[:size].clone())
    if torch.cuda.is_available() and len(states) > size:
        torch.cuda.set_rng_state(states[size:].clone())


_load_alone = functools.partial(
    # Each rank reads independently. Torch 2.6 and 2.7 support that only below `load`.
    state_dict_loader.load if "no_dist" in inspect.signature(state_dict_loader.load).parameters else load_state_dict(),
    no_dist=True,
)
