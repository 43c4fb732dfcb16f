"""Triton kernels for the cluster levels that are replicated in every process, and for the shortlists of all levels.

A program processes one text, its nodes block by block, so sums have a fixed order and need no atomic additions. The
kernels write the values that the functions of `cxml.model.shortlist` return.
"""

from __future__ import annotations

import triton
import triton.language as tl

_CHANGING = ["num_keys", "num_nodes", "num_chosen", "width", "row", "wanted"]  # new values must not recompile


@triton.jit
def lower_bound(values, wanted, begin, count):
    """The insertion index of `wanted`, int64, a scalar or a block, in the sorted values[begin : begin + count]; int64.

    Only these values are read, for any `wanted`.
    """
    end = begin + count
    low = wanted * 0 + begin
    while count > 1:
        half = count >> 1
        low = tl.where(tl.load(values + low + half - 1) < wanted, low + half, low)
        count -= half
    is_there = low < end
    return tl.where(is_there & (tl.load(values + low, is_there, other=0) < wanted), low + 1, low)


@triton.jit(do_not_specialize=_CHANGING)
def positive_keys(
    label_values, label_positions, label_offsets, tree_offsets, starts, keys, num_keys, num_labels,
    LEVELS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the sorted keys of all levels, int64 [LEVELS, num_keys].

    The index of a label's key is the number of the text's labels before it. Parents are sorted like their children, so
    the keys of its parents have the same index on their levels. `tree_offsets` are the concatenated offsets of all
    levels; level l starts at starts[l].
    """
    text = tl.program_id(0).to(tl.int64)
    first, last = tl.load(label_offsets + text), tl.load(label_offsets + text + 1)
    for begin in range(first, last, BLOCK):
        own = begin + tl.arange(0, BLOCK)
        is_own = own < last
        node = tl.load(label_positions + tl.load(label_values + own, is_own, other=0), is_own, other=0)
        place = tl.zeros([BLOCK], tl.int64) + first
        for begin_others in range(first, last, BLOCK):
            others = begin_others + tl.arange(0, BLOCK)
            is_other = others < last
            other = tl.load(label_positions + tl.load(label_values + others, is_other, other=0), is_other, other=0)
            place += tl.sum((is_other[None, :] & (other[None, :] < node[:, None])).to(tl.int64), 1)
        tl.store(keys + (LEVELS - 1) * num_keys + place, text * num_labels + node, is_own)
        for above in tl.static_range(LEVELS - 1):  # pyright: ignore[reportGeneralTypeIssues]
            level = LEVELS - 2 - above
            start = tl.load(starts + level) + 1
            size = tl.load(starts + level + 1) - start
            node = lower_bound(tree_offsets, node + 1, start, size) - start
            tl.store(keys + level * num_keys + place, text * size + node, is_own)


@triton.jit(do_not_specialize=_CHANGING)
def expand_children(
    offsets, nodes, mask, children, is_child, parent_slots, num_chosen, width,
    BLOCK: tl.constexpr, CHILDREN: tl.constexpr,
):  # fmt: skip
    """Write the children of the chosen nodes, [B, width]: int64, uint8 and int64."""
    text = tl.program_id(0).to(tl.int64)
    children += text * width
    is_child += text * width
    parent_slots += text * width
    total = tl.zeros([], tl.int64)
    for begin in range(0, num_chosen, BLOCK):
        slots = begin + tl.arange(0, BLOCK)
        inside = slots < num_chosen
        inside = inside & (tl.load(mask + text * num_chosen + slots, inside, other=0) != 0)
        node = tl.load(nodes + text * num_chosen + slots, inside, other=0)
        start = tl.load(offsets + node, inside, other=0)
        lengths = tl.load(offsets + node + 1, inside, other=0) - start
        places = total + tl.cumsum(lengths, 0) - lengths
        for first in range(0, tl.max(lengths, 0), CHILDREN):  # pyright: ignore[reportArgumentType]
            child = first + tl.arange(0, CHILDREN)[None, :]
            cells = places[:, None] + child
            exists = (child < lengths[:, None]) & (cells < width)
            tl.store(children + cells, start[:, None] + child, exists)
            tl.store(is_child + cells, tl.full([BLOCK, CHILDREN], 1, tl.uint8), exists)
            tl.store(parent_slots + cells, tl.zeros([BLOCK, CHILDREN], tl.int64) + slots[:, None], exists)
        total += tl.sum(lengths, 0)
    for begin in range(total, width, BLOCK):
        cells = begin + tl.arange(0, BLOCK)
        tl.store(children + cells, tl.zeros([BLOCK], tl.int64), cells < width)
        tl.store(is_child + cells, tl.zeros([BLOCK], tl.uint8), cells < width)
        tl.store(parent_slots + cells, tl.zeros([BLOCK], tl.int64) + num_chosen - 1, cells < width)


@triton.jit(do_not_specialize=_CHANGING)
def level_loss(
    logits, nodes, mask, keys, losses, slopes, ranking, num_wanted, num_keys, num_nodes, width, row, wanted,
    HAS_NODES: tl.constexpr, BY_NODE: tl.constexpr, IS_FORCED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write each text's mean loss, its derivatives by the logits, and the values that rank its nodes.

    Args:
        logits: any float [B, row]; with BY_NODE indexed by node, else by slot.
        nodes: int64 [B, width]; without HAS_NODES slot s is node s.
        mask: uint8 [B, width].
        keys: int64 [num_keys], sorted.
        losses: float32 [B].
        slopes: float32 [B, row].
        ranking: float32 [B, width]: logits; infinity for true nodes with IS_FORCED, -infinity for padding.
        num_wanted: int32 [B]: `wanted`; with IS_FORCED at least the number of true nodes.
        num_keys: number of keys of all texts.
        num_nodes: number of nodes of the level.
        width: C.
        row: logits per text.
        wanted: number of nodes to select for the next level.
        HAS_NODES: see `nodes`.
        BY_NODE: see `logits`.
        IS_FORCED: see `ranking`.
        BLOCK: slots per block.
    """
    text = tl.program_id(0).to(tl.int64)
    begin = lower_bound(keys, text * num_nodes, tl.zeros([], tl.int64), num_keys.to(tl.int64))
    count = lower_bound(keys, (text + 1) * num_nodes, begin, num_keys - begin) - begin
    logits += text * row
    slopes += text * row
    length = tl.zeros([BLOCK], tl.int32)
    for first in range(0, width, BLOCK):
        slots = first + tl.arange(0, BLOCK)
        length += is_node(mask, text, slots, width, HAS_NODES).to(tl.int32)
    share = 1.0 / tl.sum(length, 0).to(tl.float32)
    if BY_NODE and HAS_NODES:
        for first in range(0, row, BLOCK):
            places = first + tl.arange(0, BLOCK)
            tl.store(slopes + places, tl.zeros([BLOCK], tl.float32), places < row)
        tl.debug_barrier()  # other threads write the derivatives over these zeros
    total = tl.zeros([BLOCK], tl.float32)
    num_true = tl.zeros([BLOCK], tl.int32)
    for first in range(0, width, BLOCK):
        slots = first + tl.arange(0, BLOCK)
        exists = is_node(mask, text, slots, width, HAS_NODES)
        node = slots.to(tl.int64)
        if HAS_NODES:
            node = tl.load(nodes + text * width + slots, exists, other=0)
        places = node if BY_NODE else slots.to(tl.int64)
        logit = tl.load(logits + places, exists, other=0).to(tl.float32)
        key = text * num_nodes + node
        found = lower_bound(keys, key, begin, count)
        is_true = exists & (tl.load(keys + found, found < begin + count, other=-1) == key)
        tail = tl.exp(-tl.abs(logit))
        slope = tl.where(logit >= 0, 1.0, tail) / (1 + tail) - is_true.to(tl.float32)
        loss = tl.maximum(logit, 0.0) - logit * is_true.to(tl.float32) + tl.log(1 + tail)
        total += tl.where(exists, loss, 0.0)
        num_true += is_true.to(tl.int32)
        order = tl.where(exists, logit, float("-inf"))
        if IS_FORCED:
            order = tl.where(is_true, float("inf"), order)
        tl.store(ranking + text * width + slots, order, slots < width)
        written = exists if BY_NODE else slots < width
        tl.store(slopes + places, tl.where(exists, slope * share, 0.0), written)
    tl.store(losses + text, tl.sum(total, 0) * share)
    most = tl.sum(num_true, 0) if IS_FORCED else 0
    tl.store(num_wanted + text, tl.maximum(most, wanted))


@triton.jit
def is_node(mask, text, slots, width, HAS_NODES: tl.constexpr):
    """The mask of a text's slots that contain a node."""
    inside = slots < width
    if HAS_NODES:
        inside = inside & (tl.load(mask + text * width + slots, inside, other=0) != 0)
    return inside


@triton.jit(do_not_specialize=_CHANGING)
def select_nodes(
    slots, logits, nodes, mask, num_wanted, chosen, is_chosen, own, num_chosen, width, row,
    HAS_NODES: tl.constexpr, BY_NODE: tl.constexpr, IS_COUNTED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the nodes of chosen slots int64, their mask uint8, and their logits float32, all [B, num_chosen].

    `slots` are int64 [B, num_chosen], best first; with IS_COUNTED only a text's first `num_wanted`, int32 [B], are
    used. The other arguments are those of `level_loss`.
    """
    text = tl.program_id(0).to(tl.int64)
    wanted = tl.load(num_wanted + text) if IS_COUNTED else num_chosen
    for first in range(0, num_chosen, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        inside = columns < num_chosen
        slot = tl.load(slots + text * num_chosen + columns, inside, other=0)
        counts = inside & (columns < wanted)
        node = slot
        if HAS_NODES:
            node = tl.load(nodes + text * width + slot, inside, other=0)
            counts = counts & (tl.load(mask + text * width + slot, inside, other=0) != 0)
        places = node if BY_NODE else slot
        cells = text * num_chosen + columns
        tl.store(own + cells, tl.load(logits + text * row + places, inside, other=0).to(tl.float32), inside)
        tl.store(chosen + cells, tl.where(counts, node, 0), inside)
        tl.store(is_chosen + cells, counts.to(tl.uint8), inside)
