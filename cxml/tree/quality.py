"""Quality of label clusters: similarity of their labels, and cluster recall of texts."""

from __future__ import annotations

from typing import cast

import numpy as np
from scipy import sparse

_SCORES_AT_ONCE = 1 << 24


def mean_cosine(features: sparse.csr_matrix, of_label: np.ndarray) -> float:
    """Mean cosine of labels and the centroid of their cluster.

    Args:
        features: CSR [L, F], rows of norm 1; an empty row counts as 0.
        of_label: cluster of each label, int [L].
    """
    return float(_norms(_sums(features, of_label)).sum() / len(of_label))


def cluster_recall(
    features: sparse.csr_matrix, of_label: np.ndarray, texts: sparse.csr_matrix, labels: sparse.csr_matrix, top_k: int
) -> float:
    """Cluster recall: the share of the texts' labels in the `top_k` clusters with the nearest centroids.

    Args:
        features: CSR [L, F].
        of_label: cluster of each label, int [L].
        texts: features of texts, CSR [N, F].
        labels: labels of each text, CSR [N, L].
        top_k: clusters per text.
    """
    sums = _sums(features, of_label)
    num_texts, num_clusters = (cast(tuple[int, int], matrix.shape)[0] for matrix in (texts, sums))
    if num_clusters <= top_k or labels.nnz == 0:
        return 1.0
    centroids = sparse.csr_matrix((sparse.diags_array(1 / np.maximum(_norms(sums), 1e-12)) @ sums).T)
    found, step = 0, max(1, _SCORES_AT_ONCE // num_clusters)
    for start in range(0, num_texts, step):
        scores = (texts[start : start + step] @ centroids).toarray()
        near = np.zeros(scores.shape, np.bool_)
        np.put_along_axis(near, np.argpartition(-scores, top_k, axis=1)[:, :top_k], True, axis=1)
        positives = labels[start : start + step].tocoo()
        found += int(near[positives.row, of_label[positives.col]].sum())
    return found / labels.nnz


def _sums(features: sparse.csr_matrix, of_label: np.ndarray) -> sparse.csr_matrix:
    """Sums of the clusters' rows."""
    num_labels = len(of_label)
    members = sparse.csr_matrix((np.ones(num_labels, np.float32), (of_label, np.arange(num_labels))))
    return sparse.csr_matrix(members @ features)


def _norms(rows: sparse.csr_matrix) -> np.ndarray:
    return np.sqrt(np.asarray(rows.multiply(rows).sum(axis=1)).ravel())
