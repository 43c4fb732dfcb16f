"""Groups of pairs by leaf and their partial sums: every pair counts once, in the sum of its chunk and text.

Oracles: `numpy.bincount`, and counts of the leaves (hypothesis).
"""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cxml.data import lengths_to_offsets
from cxml.optim.leaf_groups import LeafGroups


@given(st.data())
def test_each_text_gets_the_values_of_its_own_pairs_in_the_order_of_the_chunks(data):
    num_texts = data.draw(st.integers(1, 6))
    texts = data.draw(st.lists(st.sets(st.integers(0, num_texts - 1), min_size=1).map(sorted), max_size=90))
    sizes = np.array([data.draw(st.integers(0, 4)) for _ in texts], np.int64)
    ends = np.cumsum(sizes)
    pair_ptr = lengths_to_offsets(np.array([len(each) for each in texts], np.int64))
    groups = LeafGroups(starts=ends - sizes, ends=ends, position_shift=np.zeros_like(ends), pair_ptr=pair_ptr)
    pair_texts = np.array([text for each in texts for text in each], np.int64)
    parts = groups.partial_sums(pair_texts, num_texts)
    values = np.arange(1.0, len(pair_texts) + 1)
    sums = np.zeros(len(parts.text_sums))
    for chunk in range(len(parts.chunks) - 1):
        first, last = pair_ptr[parts.chunks[[chunk, chunk + 1]]]
        places = parts.pair_sums[first:last]
        assert ((places >= parts.sum_ptr[chunk]) & (places < parts.sum_ptr[chunk + 1])).all(), "a chunk keeps to itself"
        np.add.at(sums, places, values[first:last])
    expected = np.bincount(pair_texts, values, num_texts)
    for text in range(num_texts):
        own = parts.text_sums[parts.text_ptr[text] : parts.text_ptr[text + 1]]
        assert (np.diff(own) > 0).all(), "the chunks' order"
        assert sums[own].sum() == expected[text]
    assert sorted(parts.text_sums.tolist()) == list(range(len(sums)))


@given(st.lists(st.integers(0, 6), max_size=30).map(sorted))
def test_groups_are_the_runs_of_one_leaf_without_the_pairs_that_are_none(leaves):
    starts = np.array([0, 2, 2, 5, 6, 9, 10], np.int64)  # six leaves, the second of no row; 6 is none
    positions = np.arange(6) * 100
    groups = LeafGroups.of(np.array(leaves, np.int32), starts, positions)
    own = sorted({leaf for leaf in leaves if leaf < 6})
    assert groups.starts.tolist() == [starts[leaf] for leaf in own]
    assert groups.ends.tolist() == [starts[leaf + 1] for leaf in own]
    assert (groups.starts + groups.position_shift).tolist() == [positions[leaf] for leaf in own]
    assert np.diff(groups.pair_ptr).tolist() == [leaves.count(leaf) for leaf in own]
