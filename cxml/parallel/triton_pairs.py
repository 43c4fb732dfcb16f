"""Triton kernels for the pairs of texts and leaves that are sent to the owners of rows, see `cxml.parallel.pairs`.

A pair's number encodes (owner, leaf of the owner, text) as one integer, so sorted numbers are pairs in that order. The
number of a missing pair is larger than that of every pair.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cxml.model.triton_shortlist import lower_bound

_CHANGING = [
    "num_texts", "num_nodes", "num_pairs", "num_keys", "num_shards", "most_leaves", "num_positions", "num_words",
    "no_leaf",
]  # new values of these must not trigger a compilation  # fmt: skip


@triton.jit(do_not_specialize=_CHANGING)
def number_pairs(
    nodes, mask, leaf_offsets, numbers, shares, num_texts, num_nodes, num_shards, most_leaves,
    HAS_MASK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the pairs' numbers, int64 [B, K], and the reciprocal of the rows of each text's leaves, float32 [B]."""
    text = tl.program_id(0).to(tl.int64)
    length = tl.zeros([BLOCK], tl.int64)
    none = num_shards.to(tl.int64) * most_leaves * num_texts
    for first in range(0, num_nodes, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        inside = columns < num_nodes
        cells = text * num_nodes + columns
        node = tl.load(nodes + cells, inside, other=-1)
        is_wanted = node >= 0
        if HAS_MASK:
            is_wanted = is_wanted & (tl.load(mask + cells, inside, other=0) != 0)
        length += tl.load(leaf_offsets + node + 1, is_wanted, other=0) - tl.load(
            leaf_offsets + node, is_wanted, other=0
        )
        number = (node % num_shards * most_leaves + node // num_shards) * num_texts + text
        tl.store(numbers + cells, tl.where(is_wanted, number, none), inside)
    tl.store(shares + text, 1.0 / tl.maximum(tl.sum(length, 0), 1).to(tl.float32))


@triton.jit(do_not_specialize=_CHANGING)
def unpack_pairs(
    numbers, order, values, positive_keys, leaf_offsets, owners, leaves, texts, own_values, truth,
    num_texts, num_nodes, num_pairs, num_keys, num_shards, most_leaves, num_positions, num_words, no_leaf,
    BY_TEXT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the pairs of sorted numbers, and one word per program of the true rows of their leaves.

    Args:
        numbers: int64 [P], sorted.
        order: int64 [P], the original index of each: text times K plus column.
        values: float32 [B] with BY_TEXT, else [B, K].
        positive_keys: int64 [num_keys], sorted: text times `num_positions` plus position.
        leaf_offsets: int64 [leaves of all owners + 1].
        owners: int64 [P], `num_shards` for a missing pair.
        leaves: int32 [P], numbered by their owner; `no_leaf` for a missing pair.
        texts: int32 [P].
        own_values: float32 [P].
        truth: int32 [P, num_words], see `Shortlists`; program (b, w) writes word w of the pairs of block b.
        num_texts: B.
        num_nodes: K.
        num_pairs: P.
        num_keys: number of keys of all texts.
        num_shards: number of owners.
        most_leaves: most leaves of an owner.
        num_positions: rows of all owners.
        num_words: words per leaf.
        no_leaf: see `leaves`.
        BY_TEXT: see `values`.
        BLOCK: pairs per block.
    """
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    word = tl.program_id(1)
    inside = places < num_pairs
    number = tl.load(numbers + places, inside, other=0)
    text, pair = number % num_texts, number // num_texts
    owner, leaf = pair // most_leaves, pair % most_leaves
    is_pair = inside & (owner < num_shards)
    if word == 0:
        place = tl.load(order + places, inside, other=0)
        value = tl.load(values + (place // num_nodes if BY_TEXT else place), inside, other=0)
        tl.store(own_values + places, value, inside)
        tl.store(owners + places, owner, inside)
        tl.store(leaves + places, tl.where(is_pair, leaf, no_leaf).to(tl.int32), inside)
        tl.store(texts + places, text.to(tl.int32), inside)
    node = leaf * num_shards + owner
    first = tl.load(leaf_offsets + node, is_pair, other=0) + 32 * word
    last = tl.minimum(tl.load(leaf_offsets + node + 1, is_pair, other=0), first + 32)
    first += text * num_positions
    last += text * num_positions
    found = lower_bound(positive_keys, first, tl.zeros([], tl.int64), num_keys.to(tl.int64))
    key = tl.load(positive_keys + found, is_pair & (found < num_keys), other=0x7FFFFFFFFFFFFFFF)
    bits = tl.zeros([BLOCK], tl.int32)
    while tl.max((key < last).to(tl.int32), 0) > 0:  # pyright: ignore[reportOperatorIssue]
        bits = bits | tl.where(key < last, tl.full([BLOCK], 1, tl.int32) << (key - first).to(tl.int32), 0)
        found += 1
        key = tl.load(positive_keys + found, is_pair & (found < num_keys), other=0x7FFFFFFFFFFFFFFF)
    if word < num_words:
        tl.store(truth + places * num_words + word, bits, inside)
