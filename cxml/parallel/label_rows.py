"""Which head of label rows a run asks for, and on which of its ranks they lie."""

from __future__ import annotations

from collections.abc import Callable

from cxml.config import Config, HeadConfig
from cxml.parallel.device_rows_head import TritonRowsHead
from cxml.parallel.exchange import Exchange
from cxml.parallel.full_rows_head import FullRowsHead
from cxml.parallel.process_group import ranks_per_machine
from cxml.parallel.row_layout import RowLayout, leaf_offsets_of
from cxml.parallel.rows_head import RowsHead
from cxml.tree import LabelTree


def rows_head(tree: LabelTree, exchange: Exchange, config: Config, *, trains: bool = True) -> Callable[[int], RowsHead]:
    """What makes this rank's rows of a run's label head, once the width of the features is known.

    A collective call. In training the rows lie once on each group of `head.group_size` ranks, else once on all.

    Raises:
        ConfigError: the groups do not come out even.
        LaunchError: they are to be machines, which have different numbers of ranks.
    """
    group_size = config.head.group_size if trains else 0
    shards, copies = exchange.split(ranks_per_machine() if group_size == "node" else group_size)
    layout = RowLayout.deal(leaf_offsets_of(tree.offsets, tree.num_labels), shards.rank, shards.size)
    kind = _kind(config.head)

    def make(width: int) -> RowsHead:
        return kind(
            layout, width, shards, config.head, config.optim,
            copies=copies, accumulation=config.train.accumulation, trains=trains,
        )  # fmt: skip

    return make


def _kind(head: HeadConfig) -> type[RowsHead]:
    if head.candidates == "all":
        return FullRowsHead
    return TritonRowsHead if head.rows_in == "device" and TritonRowsHead.can_run() else RowsHead
