import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cxml.tree.selection import kth_largest

floats = st.floats(-100, 100, width=32)


@given(
    st.one_of(st.lists(floats, min_size=1, max_size=200), st.lists(st.sampled_from([0.0, 1.0]), min_size=1)), st.data()
)
def test_equals_sorting(values, data):
    keys = np.array(values, np.float32)
    rank = data.draw(st.integers(1, len(keys)))
    before = keys.copy()
    assert kth_largest(keys, rank, np.empty(len(keys), np.float32)) == np.sort(keys)[-rank]
    assert np.array_equal(keys, before)
