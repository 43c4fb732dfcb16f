"""The epoch order is a permutation that depends only on size, seed and epoch.

Oracles: a fixed order that must never change, a chi-square test of uniformity, and set arithmetic (hypothesis).
"""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cxml.data import cut, epoch_order


@given(rows=st.integers(0, 300), seed=st.integers(0, 2**40), epoch=st.integers(0, 50))
def test_an_order_is_a_permutation_and_depends_on_its_arguments_alone(rows, seed, epoch):
    order = epoch_order(rows, seed, epoch)
    assert sorted(order.tolist()) == list(range(rows))
    np.testing.assert_array_equal(order, epoch_order(rows, seed, epoch))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {tuple(epoch_order(100, seed, epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_the_order_is_fixed_for_good():
    assert epoch_order(8, seed=3, epoch=1).tolist() == [5, 6, 3, 7, 0, 1, 2, 4]


def test_every_position_is_equally_likely_for_a_row():
    first = [int(epoch_order(10, 7, epoch)[0]) for epoch in range(3000)]
    counts = np.bincount(first, minlength=10)
    assert ((counts - 300) ** 2 / 300).sum() < 33.7  # chi-square, 9 degrees of freedom, p = 1e-4


@given(total=st.integers(0, 10**12), parts=st.integers(1, 200))
def test_cuts_cover_everything_in_nearly_equal_runs(total, parts):
    bounds = cut(total, parts)
    assert bounds[0] == 0
    assert bounds[-1] == total
    assert len(bounds) == parts + 1
    sizes = np.diff(bounds)
    assert sizes.max() - sizes.min() <= 1
