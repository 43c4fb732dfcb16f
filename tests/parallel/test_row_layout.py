"""The layout of label rows over shards: every row has one owner, and shards own equal numbers of leaves.

Oracle: set arithmetic over all shards (hypothesis).
"""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cxml.parallel import RowLayout
from cxml.parallel.row_layout import leaf_offsets_of

leaf_sizes = st.lists(st.integers(1, 9), min_size=1, max_size=30)


@given(leaf_sizes, st.integers(1, 40))
def test_every_row_is_owned_once_and_found_where_it_lies(sizes, num_shards):
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    layouts = [RowLayout.round_robin(offsets, shard, num_shards) for shard in range(num_shards)]
    everything = np.arange(offsets[-1])
    owned = [layout.positions() for layout in layouts]
    assert sorted(np.concatenate(owned).tolist()) == everything.tolist()
    for layout, positions in zip(layouts, owned, strict=True):
        assert layout.local_rows(positions).tolist() == list(range(layout.num_rows))
        others = np.setdiff1d(everything, positions)
        assert (layout.local_rows(others) == -1).all()


@given(leaf_sizes, st.integers(1, 40))
def test_shards_own_the_same_number_of_leaves_give_or_take_one(sizes, num_shards):
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    counts = [len(RowLayout.round_robin(offsets, shard, num_shards).local_starts) - 1 for shard in range(num_shards)]
    assert max(counts) - min(counts) <= 1


@given(st.integers(1, 1000))
def test_labels_without_clusters_are_assigned_in_leaves_that_cover_them(num_labels):
    offsets = leaf_offsets_of((), num_labels)
    assert offsets[0] == 0
    assert offsets[-1] == num_labels
    assert (np.diff(offsets) > 0).all()
