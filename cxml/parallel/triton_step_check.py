"""Triton kernels of `step_check`. Each uses one program, for a few numbers."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["num_losses", "most_in_a_row"])
def check_step(losses, counts, is_finite, num_losses, most_in_a_row, BLOCK: tl.constexpr):
    """Write uint8 []: whether all losses, float32 [num_losses], are finite, with few unsound steps directly before."""
    worst = tl.zeros([BLOCK], tl.int32)
    for first in range(0, num_losses, BLOCK):
        places = first + tl.arange(0, BLOCK)
        loss = tl.load(losses + places, places < num_losses, other=0)
        worst += (loss - loss != 0).to(tl.int32)  # infinity minus itself is not a number
    tl.store(is_finite, ((tl.sum(worst, 0) == 0) & (tl.load(counts) < most_in_a_row)).to(tl.uint8))


@triton.jit(do_not_specialize=["num_losses", "most_in_a_row", "step"])
def count_step(
    losses, own, is_finite, counts, first_losses, counted, step, num_losses, most_in_a_row, BLOCK: tl.constexpr
):  # fmt: skip
    """Update the counts for a step.

    Args:
        losses: losses over all ranks, float32 [num_losses]; stored in `first_losses` if this is the first unsound step
            in a row.
        own: this rank's losses, float32 [num_losses].
        is_finite: uint8 [].
        counts: int64 [3]: unsound steps in a row, unsound steps in total, and the first step of the row.
        first_losses: float32 [num_losses].
        counted: float32 [num_losses], `own` if the step is sound, else 0.
        step: the number of the step.
        num_losses: number of levels.
        most_in_a_row: maximum of the first count.
        BLOCK: losses per block.
    """
    failed = tl.load(is_finite) == 0
    in_a_row, in_all, first = tl.load(counts), tl.load(counts + 1), tl.load(counts + 2)
    is_first = failed & (in_a_row == 0)
    tl.debug_barrier()  # all threads have read the counts before they are written
    tl.store(counts, tl.where(failed, tl.minimum(in_a_row + 1, most_in_a_row), 0))
    tl.store(counts + 1, in_all + failed.to(tl.int64))
    tl.store(counts + 2, tl.where(is_first, step, first))
    for begin in range(0, num_losses, BLOCK):
        places = begin + tl.arange(0, BLOCK)
        inside = places < num_losses
        kept = tl.load(first_losses + places, inside, other=0)
        tl.store(first_losses + places, tl.where(is_first, tl.load(losses + places, inside, other=0), kept), inside)
        tl.store(counted + places, tl.where(failed, 0.0, tl.load(own + places, inside, other=0)), inside)
