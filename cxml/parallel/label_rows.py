"""Which kernels a run's label rows are worked on by, and on which of its ranks they lie."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cxml import extras
from cxml.accelerators import accelerator_type
from cxml.config import Config, HeadConfig, OptimConfig
from cxml.optim import CpuEveryRowKernels, CpuShortlistKernels, RowKernels
from cxml.parallel.exchange import Exchange
from cxml.parallel.process_group import ranks_per_machine
from cxml.parallel.row_layout import RowLayout, leaf_offsets_of
from cxml.parallel.sharded_level import ShardedLevel
from cxml.tree import LabelTree


def sharded_level(
    tree: LabelTree, exchange: Exchange, config: Config, *, trains: bool = True
) -> Callable[[int], ShardedLevel]:
    """What makes this rank's rows of a run's label head, once the width of the features is known.

    A collective call. In training the rows lie once on each group of `head.group_size` ranks, else once on all.

    Raises:
        ConfigError: the groups do not come out even.
        LaunchError: they are to be machines, which have different numbers of ranks.
    """
    group_size = config.head.group_size if trains else 0
    shards, copies = exchange.split(ranks_per_machine() if group_size == "node" else group_size)
    layout = RowLayout.deal(leaf_offsets_of(tree.offsets, tree.num_labels), shards.rank, shards.size)

    def make(width: int) -> ShardedLevel:
        return make_level(
            layout, width, shards, config.head, config.optim,
            copies=copies, accumulation=config.train.accumulation, trains=trains,
        )  # fmt: skip

    return make


def make_level(
    layout: RowLayout,
    width: int,
    exchange: Exchange,
    head: HeadConfig,
    optim: OptimConfig,
    **options: Any,  # noqa: ANN401 - those of `ShardedLevel`
) -> ShardedLevel:
    """A level with the kernels for the device that its rows are worked on: the accelerator's, or the processor's."""
    on_device = head.rows_in == "device" and accelerator_type() is not None and extras.is_installed("triton")
    kernels = kernels_for(head, on_device=on_device)
    return ShardedLevel(layout, width, exchange, head, optim, kernels=kernels, on_device=on_device, **options)


def kernels_for(head: HeadConfig, *, on_device: bool) -> RowKernels:
    """The kernels that a head's settings ask for."""
    scores_all = head.candidates == "all"
    if not on_device:
        return CpuEveryRowKernels() if scores_all else CpuShortlistKernels()
    from cxml.optim.triton_kernels import TritonEveryRowKernels, TritonShortlistKernels  # noqa: PLC0415 - optional

    return TritonEveryRowKernels() if scores_all else TritonShortlistKernels()
