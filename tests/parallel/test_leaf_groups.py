"""The sums of chunks: every pair adds to the one sum of its chunk and text, and a text's sums are found again."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cxml.data import lengths_to_offsets
from cxml.parallel.leaf_groups import LeafGroups


@given(st.data())
def test_each_text_gets_the_values_of_its_own_pairs_in_the_order_of_the_chunks(data):
    num_texts = data.draw(st.integers(1, 6))
    texts = data.draw(st.lists(st.sets(st.integers(0, num_texts - 1), min_size=1).map(sorted), max_size=90))
    sizes = np.array([data.draw(st.integers(0, 4)) for _ in texts], np.int64)
    ends = np.cumsum(sizes)
    pair_ptr = lengths_to_offsets(np.array([len(each) for each in texts], np.int64))
    groups = LeafGroups(
        starts=ends - sizes, ends=ends, position_shift=np.zeros_like(ends), pair_ptr=pair_ptr,
        pair_texts=np.array([text for each in texts for text in each], np.int64),
        score_ptr=lengths_to_offsets(sizes * np.diff(pair_ptr)), row_ptr=lengths_to_offsets(sizes),
    )  # fmt: skip
    parts = groups.partial_sums(num_texts)
    values = np.arange(1.0, len(groups.pair_texts) + 1)
    sums = np.zeros(len(parts.text_sums))
    for chunk in range(len(parts.chunks) - 1):
        first, last = pair_ptr[parts.chunks[[chunk, chunk + 1]]]
        places = parts.pair_sums[first:last]
        assert ((places >= parts.sum_ptr[chunk]) & (places < parts.sum_ptr[chunk + 1])).all(), "a chunk keeps to itself"
        np.add.at(sums, places, values[first:last])
    expected = np.bincount(groups.pair_texts, values, num_texts)
    for text in range(num_texts):
        own = parts.text_sums[parts.text_ptr[text] : parts.text_ptr[text + 1]]
        assert (np.diff(own) > 0).all(), "the chunks' order"
        assert sums[own].sum() == expected[text]
    assert sorted(parts.text_sums.tolist()) == list(range(len(sums)))
