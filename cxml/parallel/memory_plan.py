"""Plan the memory and the steps of a training job before it starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.table import Table

from cxml.config import TrainConfig
from cxml.data import StepFacts
from cxml.parallel.step_costs import LevelTraffic


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The memory of one rank, in bytes, and the steps.

    Attributes:
        parameters: number of weights of each part of the model.
        trained: number of weights of each part that learn.
        world_size: processes.
        zero_stage: stage of ZeRO, which partitions state over them.
        weights: bytes of weights per rank.
        gradients: bytes of gradients per rank.
        optimizer: bytes of AdamW's moments, and of fp32 master weights under bf16, per rank.
        label_rows: bytes of sharded rows with their optimiser state per rank: labels, and large cluster levels.
        activations: bytes that the encoder keeps for the longest texts until the backward pass; None if not known.
        row_state: bytes per row of each sharded level, by the names of `RowState`.
        steps: statistics of an epoch's optimiser steps.
        epochs: passes over the texts.
        accumulation: micro-batches of a step and process.
        sharded: rows of each sharded level, by its name.
        traffic: traffic of each of them per process and micro-batch.
        launches: of kernels outside the encoder in a step on an accelerator, by level; see `launches_of_step`.
    """

    parameters: Mapping[str, int]
    trained: Mapping[str, int]
    world_size: int
    zero_stage: int
    weights: int
    gradients: int
    optimizer: int
    label_rows: int
    steps: StepFacts
    epochs: int
    accumulation: int = 1
    activations: int | None = None
    row_state: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    sharded: Mapping[str, int] = field(default_factory=dict)
    traffic: Sequence[LevelTraffic] = ()
    launches: Mapping[str, int] | None = None

    @property
    def bytes_per_rank(self) -> int:
        """Weights, gradients, optimiser state and activations of one rank, label rows included."""
        return self.weights + self.gradients + self.optimizer + self.label_rows + (self.activations or 0)

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole run."""
        return self.steps.steps_per_epoch * self.epochs

    @property
    def gradient_traffic(self) -> int:
        """Bytes that a process sends for the engine's gradients in a step, in fp32."""
        return 2 * 4 * sum(self.trained.values()) * (self.world_size - 1) // self.world_size

    def sent(self, *, padded: bool) -> int:
        """Bytes that a process sends in a step: between accelerators (`padded`), or between CPUs."""
        by_level = [level.padded if padded else level.exact for level in self.traffic]
        return self.gradient_traffic + self.accumulation * sum(by_level)

    def table(self) -> Table:
        """The plan as a table."""
        table = Table(title="Plan", title_justify="left", show_header=False)
        for name, count in self.parameters.items():
            learns = self.trained[name]
            note = "" if learns == count else f" ({learns:,} trained)"
            table.add_row(name, f"{count:,} weights{note}", end_section=name == list(self.parameters)[-1])
        zero = f", ZeRO stage {self.zero_stage}" if self.world_size > 1 else ""
        table.add_row("processes", f"{self.world_size}{zero}")
        for name, label in (
            ("weights", "weights"),
            ("gradients", "gradients"),
            ("optimizer", "optimiser state"),
            ("label_rows", "sharded rows with their state"),
            ("activations", "activations of the longest texts"),
            ("bytes_per_rank", "sum" if self.activations is not None else "sum, without activations"),
        ):
            if getattr(self, name) is None:
                continue
            table.add_row(f"{label} per rank", f"{getattr(self, name) / 2**20:,.0f} MiB")
        for name, rows in self.sharded.items():
            state = self.row_state[name]
            parts = ", ".join(f"{kind.replace('_', ' ')} {size:,}" for kind, size in state.items())
            table.add_row(f"sharded: {name}", f"{rows:,} rows")
            table.add_row("bytes per row", f"{sum(state.values()):,}: {parts}")
        if self.world_size > 1 and self.traffic:
            exact, padded = (sum(getattr(level, kind) for level in self.traffic) for kind in ("exact", "padded"))
            sent = f"{exact / 2**20:,.1f} MiB between CPUs, {padded / 2**20:,.1f} MiB between accelerators"
            table.add_row("sent for sharded rows, per rank and micro-batch", sent)
            gradients = f"{self.gradient_traffic / 2**20:,.1f} MiB"
            table.add_row("sent for the engine's gradients, per rank and step", gradients)
        if self.launches:
            by_level = ", ".join(f"{name} {count}" for name, count in self.launches.items())
            table.add_row("launches of a step outside the encoder", f"{sum(self.launches.values())}: {by_level}")
        steps = self.steps
        tokens = f"{steps.mean_tokens:,.0f} on average, {steps.most_tokens:,} at most, {steps.padding:.1%} padding"
        table.add_row("tokens per step, including padding", tokens)
        table.add_row("steps", f"{steps.steps_per_epoch:,} per epoch x {self.epochs} = {self.total_steps:,}")
        return table


def make_plan(
    parameters: Mapping[str, int],
    trained: Mapping[str, int],
    config: TrainConfig,
    *,
    steps: StepFacts,
    world_size: int,
    sharded: Mapping[str, int] | None = None,
    row_state: Mapping[str, Mapping[str, int]] | None = None,
    group_size: int = 0,
    traffic: Sequence[LevelTraffic] = (),
    activations: int | None = None,
    launches: Mapping[str, int] | None = None,
) -> Plan:
    """Plan a job.

    ZeRO stage 1 partitions the optimiser state over the ranks, stage 2 the gradients too, stage 3 the weights too.

    Args:
        parameters: number of weights of each part of the model that the engine holds.
        trained: those that learn.
        config: precision, ZeRO stage, epochs, micro-batches.
        steps: statistics of an epoch's optimiser steps.
        world_size: processes.
        sharded: rows of each sharded level, by its name.
        row_state: bytes of each part of a row of these levels, by the level's name.
        group_size: ranks that share one replica of the rows; 0 for all ranks.
        traffic: what a rank sends for each sharded level.
        activations: bytes of one rank, if they are known.
        launches: of a step on an accelerator, by level.
    """
    row_state, sharded = row_state or {}, sharded or {}
    row_bytes = sum(rows * sum(row_state[name].values()) for name, rows in sharded.items())
    total, learning = sum(parameters.values()), sum(trained.values())
    width = 2 if config.precision == "bf16" else 4
    state = 12 if config.precision == "bf16" else 8  # two fp32 moments; beside bf16 weights also an fp32 copy of them
    share = [1 if config.zero_stage < stage else world_size for stage in (1, 2, 3)]
    return Plan(
        parameters=parameters,
        trained=trained,
        world_size=world_size,
        zero_stage=config.zero_stage,
        weights=-(-total * width // share[2]),
        gradients=-(-learning * width // share[1]),
        optimizer=-(-learning * state // share[0]),
        label_rows=-(-row_bytes // (group_size or world_size)),
        steps=steps,
        epochs=config.epochs,
        accumulation=config.accumulation,
        row_state=row_state,
        sharded=sharded,
        traffic=traffic,
        activations=activations,
        launches=launches,
    )
