"""The plan of splits: every node has children, siblings have equal sizes, splits cut at cluster bounds.

Oracles: the definition of each property (hypothesis), and exact fractions for the division of children.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxml.errors import ConfigError
from cxml.tree.shape import distribute_children, plan_splits


@st.composite
def shapes(draw: st.DrawFn, max_labels: int = 300) -> tuple[int, list[int]]:
    num_labels = draw(st.integers(1, max_labels))
    sizes = draw(st.lists(st.integers(1, num_labels), max_size=4, unique=True))
    return num_labels, sorted(sizes)


@given(shapes())
def test_every_node_has_children_and_levels_have_their_sizes(shape):
    num_labels, sizes = shape
    offsets = plan_splits(num_labels, sizes).offsets
    assert [len(bounds) - 1 for bounds in offsets] == sizes
    for bounds, end in zip(offsets, [*sizes[1:], num_labels], strict=False):
        assert bounds[0] == 0
        assert bounds[-1] == end
        assert (np.diff(bounds) >= 1).all()


@given(shapes())
def test_siblings_differ_by_at_most_one_label(shape):
    num_labels, sizes = shape
    offsets = plan_splits(num_labels, sizes).offsets
    for level in range(len(sizes) - 1):
        bounds = offsets[-1]
        for below in reversed(offsets[level + 1 : -1]):
            bounds = bounds[below]
        labels = np.diff(bounds)
        for start, end in zip(offsets[level][:-1], offsets[level][1:], strict=True):
            assert np.ptp(labels[start:end]) <= 1


@given(st.integers(1, 6), st.lists(st.integers(1, 6), min_size=1, max_size=3), st.integers(0, 500))
def test_where_each_size_divides_the_next_all_clusters_of_a_level_differ_by_at_most_one(first, factors, more):
    sizes = [int(size) for size in np.cumprod([first, *factors])]
    sizes = sorted(set(sizes))
    plan = plan_splits(sizes[-1] + more, sizes)
    bounds = plan.offsets[-1]
    for level in reversed(range(len(sizes))):
        assert np.ptp(np.diff(bounds)) <= 1
        bounds = bounds[plan.offsets[level - 1]] if level else bounds


@given(shapes())
def test_splits_cut_the_labels_at_just_the_cluster_bounds_each_after_its_parent(shape):
    num_labels, sizes = shape
    plan = plan_splits(num_labels, sizes)
    nodes = {(0, num_labels)}
    for start, middle, end in plan.splits.tolist():
        assert (start, end) in nodes
        assert start < middle < end
        nodes |= {(start, middle), (middle, end)}
    cuts = {0, num_labels, *plan.splits[:, 1].tolist()}
    assert cuts == (set(plan.offsets[-1].tolist()) if sizes else {0, num_labels})


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.data())
def test_children_go_one_by_one_to_the_node_with_the_most_labels_per_child(labels, data):
    total = data.draw(st.integers(len(labels), sum(labels)))
    expected = [1] * len(labels)
    while sum(expected) < total:
        # Comparing fractions exactly: labels[i] / expected[i] by cross-multiplication over a common denominator.
        scale = np.lcm.reduce(expected)
        per_child = [(size * (scale // count), size) for size, count in zip(labels, expected, strict=True)]
        expected[per_child.index(max(per_child))] += 1
    assert distribute_children(np.array(labels), total).tolist() == expected


@pytest.mark.parametrize(("num_labels", "sizes"), [(5, [6]), (5, [2, 6]), (9, [4, 4]), (9, [4, 2]), (9, [0])])
def test_impossible_level_sizes_are_refused_with_field_and_remedy(num_labels, sizes):
    with pytest.raises(ConfigError, match=r"tree\.level_sizes.*(at most|increase)"):
        plan_splits(num_labels, sizes)
