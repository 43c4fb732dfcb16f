"""Choose the sharded levels of a run, the kernels of their rows, and the ranks that hold them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from cxml import extras
from cxml.accelerators import accelerator_type
from cxml.config import Config, HeadConfig, OptimConfig
from cxml.optim import CpuAllRowsKernels, CpuShortlistKernels, RowKernels
from cxml.parallel.exchange import Exchange
from cxml.parallel.process_group import ranks_per_machine
from cxml.parallel.row_layout import RowLayout, leaf_offsets_of
from cxml.parallel.sharded_level import ShardedLevel
from cxml.tree import LabelTree


def sharded_levels(
    tree: LabelTree,
    exchange: Exchange,
    config: Config,
    *,
    trains: bool = True,
    rows_in: Literal["device", "host"] | None = None,
) -> Callable[[Sequence[int]], tuple[list[ShardedLevel], ShardedLevel]]:
    """A function that makes a run's sharded cluster levels and its label level from the feature width of each level.

    A collective call. In training, each group of `head.group_size` ranks holds all rows once; otherwise all ranks
    together do. In prediction only the labels are sharded. `rows_in` overrides the config's.

    Raises:
        ConfigError: the number of ranks is not a multiple of the group size.
        LaunchError: each machine is a group, but the machines have different numbers of ranks.
    """
    own_head = config.head if rows_in is None else dataclasses.replace(config.head, rows_in=rows_in)
    group_size = own_head.group_size if trains else 0
    shards, replicas = exchange.split(ranks_per_machine() if group_size == "node" else group_size)
    clusters = sharded_clusters(tree, own_head) if trains else []

    def make(widths: Sequence[int]) -> tuple[list[ShardedLevel], ShardedLevel]:
        def level_of(leaf_offsets: np.ndarray, width: int, head: HeadConfig, **options: Any) -> ShardedLevel:  # noqa: ANN401
            return make_level(
                RowLayout.round_robin(leaf_offsets, shards.rank, shards.size), width, shards, head, config.optim,
                deterministic=config.train.deterministic, replicas=replicas, accumulation=config.train.accumulation,
                trains=trains, **options,
            )  # fmt: skip

        labels = level_of(leaf_offsets_of(tree.offsets, tree.num_labels), widths[-1], own_head)
        by_shortlist = dataclasses.replace(own_head, candidates="shortlist")
        sizes = tree.level_sizes
        return [
            level_of(
                leaf_offsets_of(tree.offsets[:level], sizes[level]),
                widths[level],
                by_shortlist,
                schedule=labels.schedule,
                is_last=False,
            )
            for level in clusters
        ], labels

    return make


def sharded_clusters(tree: LabelTree, head: HeadConfig) -> list[int]:
    """The cluster levels whose rows are sharded over the ranks: the last ones, because lower levels are larger."""
    if head.implementation != "rows":
        return []
    return [level for level, size in enumerate(tree.level_sizes[:-1]) if size > head.shard_from]


def make_level(
    layout: RowLayout,
    width: int,
    exchange: Exchange,
    head: HeadConfig,
    optim: OptimConfig,
    *,
    deterministic: bool = False,
    **options: Any,  # noqa: ANN401 - those of `ShardedLevel`
) -> ShardedLevel:
    """A level with the kernels of the device that updates its rows: the accelerator or the CPU."""
    on_device = head.rows_in == "device" and accelerator_type() is not None and extras.is_installed("triton")
    kernels = kernels_for(head, on_device=on_device, deterministic=deterministic)
    return ShardedLevel(layout, width, exchange, head, optim, kernels=kernels, on_device=on_device, **options)


def kernels_for(head: HeadConfig, *, on_device: bool, deterministic: bool = False) -> RowKernels:
    """The kernels that a head's settings select. Those of the CPU are always deterministic."""
    scores_all = head.candidates == "all"
    if not on_device:
        return CpuAllRowsKernels() if scores_all else CpuShortlistKernels()
    from cxml.optim.triton_kernels import TritonAllRowsKernels, TritonShortlistKernels  # noqa: PLC0415 - optional

    kind = TritonAllRowsKernels if scores_all else TritonShortlistKernels
    return kind(deterministic=deterministic)
