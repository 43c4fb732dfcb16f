"""PIFA features of labels.

Oracle: a dense product in float64 (hypothesis).
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from cxml.errors import DataError
from cxml.tree import label_features, pifa


def random_texts(seed: int, num_texts: int, num_labels: int, num_features: int) -> tuple[sparse.csr_matrix, ...]:
    rng = np.random.default_rng(seed)
    labels = sparse.csr_matrix((rng.random((num_texts, num_labels)) < 0.2).astype(np.float32))
    features = rng.random((num_texts, num_features)) * (rng.random((num_texts, num_features)) < 0.3)
    return labels, sparse.csr_matrix(features.astype(np.float32))


def dense_pifa(labels: sparse.csr_matrix, features: sparse.csr_matrix, top_k: int) -> np.ndarray:
    sums = labels.toarray().astype(np.float64).T @ features.toarray().astype(np.float64)
    for row in sums:
        row[np.argsort(-row, kind="stable")[top_k:]] = 0
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    return sums / np.where(norms > 0, norms, 1)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 40), st.integers(1, 20), st.integers(1, 30), st.integers(1, 35))
def test_equals_the_dense_product(seed, num_texts, num_labels, num_features, top_k):
    labels, features = random_texts(seed, num_texts, num_labels, num_features)
    result = pifa(labels, features, top_k)
    assert result.dtype == np.float32
    assert result.has_sorted_indices
    np.testing.assert_allclose(result.toarray(), dense_pifa(labels, features, top_k), atol=1e-5)


def test_a_label_without_texts_gets_an_empty_row():
    labels, features = random_texts(0, 30, 6, 10)
    labels = sparse.csr_matrix(labels.toarray() * np.array([1, 0, 1, 1, 0, 0]))
    assert (np.diff(pifa(labels, features, 5).indptr) > 0).tolist() == [True, False, True, True, False, False]


def test_of_equal_features_the_first_are_kept():
    features = sparse.csr_matrix(np.full((2, 7), 0.25, np.float32))
    assert pifa(sparse.csr_matrix(np.ones((2, 1))), features, 3).indices.tolist() == [0, 1, 2]


def test_the_order_of_the_texts_does_not_change_a_bit():
    labels, features = random_texts(3, 200, 10, 50)
    shuffled = np.random.default_rng(4).permutation(200)
    one, other = pifa(labels, features, 20), pifa(labels[shuffled], features[shuffled], 20)
    assert np.array_equal(one.indices, other.indices)
    assert np.array_equal(one.data.view(np.int32), other.data.view(np.int32))


def test_blocks_of_labels_give_what_one_block_gives(monkeypatch):
    labels, features = random_texts(5, 60, 25, 30)
    whole = pifa(labels, features, 9)
    monkeypatch.setattr(label_features, "_BLOCK_ENTRIES", 20)
    assert (pifa(labels, features, 9) != whole).nnz == 0


def test_unequal_numbers_of_texts_and_values_that_are_not_finite_are_refused():
    labels, features = random_texts(0, 10, 3, 4)
    with pytest.raises(DataError, match="labels of 9 texts, but features of 10"):
        pifa(labels[:9], features, 2)
    features.data[0] = np.nan
    with pytest.raises(DataError, match="not finite"):
        pifa(labels, features, 2)
