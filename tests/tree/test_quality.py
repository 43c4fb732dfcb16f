"""Cosine and cluster recall of a tree's clusters.

Oracle: loops over clusters and texts (hypothesis).
"""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import sparse

from cxml.tree import cluster_recall, mean_cosine, quality


def random_rows(rng, rows, columns, share=0.3):
    dense = rng.random((rows, columns)) * (rng.random((rows, columns)) < share)
    norms = np.linalg.norm(dense, axis=1, keepdims=True)
    return (dense / np.where(norms > 0, norms, 1)).astype(np.float32)


def centroids_of(features, of_label):
    totals = [features[of_label == cluster].astype(np.float64).sum(0) for cluster in range(of_label.max() + 1)]
    return [total / max(np.linalg.norm(total), 1e-12) for total in totals]


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 8))
def test_the_mean_cosine_is_that_of_a_loop_over_labels(seed, num_clusters):
    rng = np.random.default_rng(seed)
    features, of_label = random_rows(rng, 20, 12), rng.permutation(np.arange(20) % num_clusters)
    centroids = centroids_of(features, of_label)
    cosines = [features[label] @ centroids[of_label[label]] for label in range(20)]
    assert mean_cosine(sparse.csr_matrix(features), of_label) == pytest.approx(np.mean(cosines), abs=1e-5)


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(1, 8), st.integers(1, 5), st.sampled_from([1, 1 << 24]))
def test_cluster_recall_is_that_of_a_loop_over_texts_and_labels(seed, num_clusters, top_k, at_once):
    rng = np.random.default_rng(seed)
    features, texts = random_rows(rng, 20, 12), random_rows(rng, 9, 12, share=0.8)
    of_label = rng.permutation(np.arange(20) % num_clusters)
    labels = rng.random((9, 20)) < 0.2
    centroids = centroids_of(features, of_label)
    found = total = 0
    for text in range(9):
        scores = np.array([texts[text] @ centroid for centroid in centroids])
        for label in np.flatnonzero(labels[text]):
            total += 1
            better = (scores > scores[of_label[label]] + 1e-6).sum()
            ties = (np.abs(scores - scores[of_label[label]]) <= 1e-6).sum()
            assume(not better < top_k < better + ties)  # any of equally near clusters may be entered
            found += better < top_k
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality, "_SCORES_AT_ONCE", at_once)
        result = cluster_recall(
            sparse.csr_matrix(features), of_label, sparse.csr_matrix(texts), sparse.csr_matrix(labels), top_k
        )
    assert result == pytest.approx(found / total if total else 1.0)
