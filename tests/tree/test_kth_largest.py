"""Selection of the k-th largest key and the order of keys as bits.

Oracle: `numpy.sort` and comparisons of the floats (hypothesis).
"""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cxml.tree.kth_largest import key_of_bits, kth_largest, ordered_bits

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


@settings(max_examples=200)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=60))
def test_bits_are_in_the_order_of_the_keys_and_tell_them(values):
    keys = np.array(values, np.float32)
    bits = ordered_bits(keys)
    assert ((bits[:, None] < bits[None, :]) == (keys[:, None] < keys[None, :])).all()
    assert [key_of_bits(int(each)) for each in bits] == keys.tolist()
