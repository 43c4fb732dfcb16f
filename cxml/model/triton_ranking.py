"""Triton kernels that rank nodes, see `cxml.model.ranking`."""

from __future__ import annotations

import triton
import triton.language as tl

from cxml.model.triton_shortlist import is_node, lower_bound

_CHANGING = [
    "num_parents", "width", "row", "num_cells", "num_words", "num_found", "num_best", "wanted",
]  # new values of these must not trigger a compilation  # fmt: skip
_NO_KEY = tl.constexpr(-(2**63))
_SIGN = tl.constexpr(0x7FFFFFFF)


@triton.jit
def _ordered(values):
    """Integers of 32 bits, as int64, in the order of float32 values; 0 and -0 are equal."""
    bits = (values + 0.0).to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ _SIGN, bits).to(tl.int64)


@triton.jit
def _key(score, own):
    return (_ordered(score) << 32) + _ordered(own) + 0x80000000


@triton.jit
def _joint_logit(logit, parent):
    low = tl.minimum(logit, parent, propagate_nan=tl.PropagateNan.ALL)
    high = tl.maximum(logit, parent, propagate_nan=tl.PropagateNan.ALL)
    rest = tl.exp(-tl.abs(high)) + tl.exp(low - tl.maximum(high, 0.0))
    near = 1.0 + rest  # log(1 + rest), accurate even if this sum rounds off most of the rest
    logarithm = tl.where(near == 1.0, rest, tl.log(near) * (rest / (near - 1.0)))
    return low + tl.minimum(high, 0.0) - logarithm


@triton.jit
def _score(key):
    """The score of a key, float32; -infinity for none."""
    high = (key >> 32).to(tl.int32)
    bits = tl.where(high < 0, high ^ _SIGN, high)
    return tl.where(key == _NO_KEY, float("-inf"), bits.to(tl.float32, bitcast=True))


@triton.jit
def _own(key):
    """The logit of a key's node, float32."""
    low = ((key & 0xFFFFFFFF) - 0x80000000).to(tl.int32)
    return tl.where(low < 0, low ^ _SIGN, low).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=_CHANGING)
def rank_nodes(
    logits, nodes, mask, parent_slots, parent_logits, keys, ranking, num_parents, width, row,
    HAS_NODES: tl.constexpr, BY_NODE: tl.constexpr, HAS_PARENTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the keys of a shortlist's scores int64, and its logits float32, -infinity for padding; [B, width] both.

    `parent_logits` are float32 [B, num_parents]. The other arguments are those of `triton_shortlist.level_loss`.
    """
    text = tl.program_id(0).to(tl.int64)
    for first in range(0, width, BLOCK):
        slots = first + tl.arange(0, BLOCK)
        cells = text * width + slots
        exists = is_node(mask, text, slots, width, HAS_NODES)
        places = tl.load(nodes + cells, exists, other=0) if BY_NODE and HAS_NODES else slots.to(tl.int64)
        own = tl.load(logits + text * row + places, exists, other=0).to(tl.float32)
        score = own
        if HAS_PARENTS:
            parent = tl.load(parent_slots + cells, exists, other=0)
            score = _joint_logit(own, tl.load(parent_logits + text * num_parents + parent, exists, other=0))
        tl.store(keys + cells, tl.where(exists, _key(score, own), _NO_KEY), slots < width)
        tl.store(ranking + cells, tl.where(exists, own, float("-inf")), slots < width)


@triton.jit(do_not_specialize=_CHANGING)
def best_nodes(
    keys, slots, nodes, best, scores, num_found, width, num_best, HAS_NODES: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Write the nodes int64 and scores float32 of sorted keys [B, num_found], padded to [B, num_best] with -1, -inf."""
    text = tl.program_id(0).to(tl.int64)
    for first in range(0, num_best, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        inside = columns < num_found
        cells = text * num_found + columns
        score = _score(tl.load(keys + cells, inside, other=_NO_KEY))
        node = tl.load(slots + cells, inside, other=0)
        if HAS_NODES:
            node = tl.load(nodes + text * width + node, inside, other=0)
        target = text * num_best + columns
        tl.store(best + target, tl.where(score == float("-inf"), -1, node), columns < num_best)
        tl.store(scores + target, score, columns < num_best)


@triton.jit(do_not_specialize=_CHANGING)
def rank_pairs(
    logits, positions, parent_logits, truth, keys, num_cells, width, num_words,
    HAS_PARENTS: tl.constexpr, HAS_TRUTH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the keys of pairs' rows, int64 [P, width], from logits and positions of this shape; -1 for no row.

    With HAS_TRUTH, int32 [P, num_words] as in `Shortlists`, true rows have the score infinity.
    """
    cells = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = cells < num_cells
    own = tl.load(logits + cells, inside, other=0)
    score = own
    if HAS_PARENTS:
        score = _joint_logit(own, tl.load(parent_logits + cells // width, inside, other=0))
    if HAS_TRUTH:
        column = cells % width
        words = tl.load(truth + cells // width * num_words + column // 32, inside, other=0)
        score = tl.where((words >> (column % 32).to(tl.int32)) & 1 != 0, float("inf"), score)
    exists = tl.load(positions + cells, inside, other=-1) >= 0
    tl.store(keys + cells, tl.where(exists, _key(score, own), _NO_KEY), inside)


@triton.jit(do_not_specialize=_CHANGING)
def key_scores(keys, scores, num_cells, BLOCK: tl.constexpr):
    """Write the scores of keys, float32 [n]."""
    cells = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = cells < num_cells
    tl.store(scores + cells, _score(tl.load(keys + cells, inside, other=_NO_KEY)), inside)


@triton.jit(do_not_specialize=_CHANGING)
def choose_keys(
    keys, nodes, chosen, is_chosen, own, num_found, wanted, IS_FORCED: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Write the nodes int64 of sorted keys [B, num_found], their mask uint8 and their own logits float32, 0 for none.

    The first `wanted` nodes of a text are chosen; with IS_FORCED also all nodes with the score infinity.
    """
    text = tl.program_id(0).to(tl.int64)
    most = wanted
    if IS_FORCED:
        forced = tl.zeros([BLOCK], tl.int32)
        for first in range(0, num_found, BLOCK):
            columns = first + tl.arange(0, BLOCK)
            key = tl.load(keys + text * num_found + columns, columns < num_found, other=_NO_KEY)
            forced += (_score(key) == float("inf")).to(tl.int32)
        most = tl.maximum(wanted, tl.sum(forced, 0))
    for first in range(0, num_found, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        inside = columns < num_found
        cells = text * num_found + columns
        key = tl.load(keys + cells, inside, other=_NO_KEY)
        counts = (columns < most) & (key != _NO_KEY)
        tl.store(chosen + cells, tl.where(counts, tl.load(nodes + cells, inside, other=0), 0), inside)
        tl.store(is_chosen + cells, counts.to(tl.uint8), inside)
        tl.store(own + cells, tl.where(counts, _own(key), 0.0), inside)


@triton.jit(do_not_specialize=_CHANGING)
def take_best(texts, order, place, keys, positions, best, found, num_cells, num_best, BLOCK: tl.constexpr):
    """Write the first keys of each text and their positions, int64 [S, num_best]; the candidates are sorted.

    `texts` [n] has the text of each sorted candidate; place[order[i]] is the original index of candidate i.
    """
    text = tl.program_id(0).to(tl.int64)
    begin = lower_bound(texts, text, tl.zeros([], tl.int64), num_cells.to(tl.int64))
    end = lower_bound(texts, text + 1, begin, num_cells - begin)
    for first in range(0, num_best, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        inside = begin + columns < end
        own = tl.load(place + tl.load(order + begin + columns, inside, other=0), inside, other=0)
        key = tl.load(keys + own, inside, other=_NO_KEY)
        position = tl.load(positions + own, inside, other=-1)
        target = text * num_best + columns
        tl.store(best + target, key, columns < num_best)
        tl.store(found + target, tl.where(key == _NO_KEY, -1, position), columns < num_best)
