"""Label features: PIFA (positive instance feature aggregation), the sum of the tf-idf rows of a label's texts.

Feature values are rounded to multiples of 2**-24 and summed in float64, which is exact for sums below 2**29, so the
result does not depend on the order of the texts or on their distribution over shards and threads.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple, cast

import numpy as np
from scipy import sparse

from cxml.errors import DataError
from cxml.jit import cached_njit
from cxml.tree.kth_largest import kth_largest
from cxml.tree.thread_pool import ThreadPool, default_threads
from cxml.tree.two_means import GRID

_BLOCK_ENTRIES = 1 << 24
"""Most entries of the labels in one block, which limits temporary memory to about 130 MB."""
_PARTS_PER_THREAD = 4


class _Csr(NamedTuple):
    """The arrays of a CSR matrix."""

    indptr: np.ndarray
    indices: np.ndarray
    values: np.ndarray


def pifa(
    labels: sparse.csr_matrix | sparse.csr_array, features: sparse.csr_matrix | sparse.csr_array, top_k: int,
    *, threads: int | None = None,
) -> sparse.csr_matrix:  # fmt: skip
    """Sum each label's text features: the `top_k` largest entries of each row of labels^T features, with norm 1.

    Args:
        labels: labels of each text, CSR [N, L]; the values are ignored.
        features: text features, such as tf-idf, CSR [N, F].
        top_k: largest features kept per label; ties keep the first.
        threads: None uses OMP_NUM_THREADS or the cores that this process may run on.

    Returns:
        float32 CSR [L, F], with sorted columns. A label without texts has an empty row.

    Raises:
        DataError: the numbers of texts differ, or a feature is not finite.
    """
    num_texts, num_rows = (cast(tuple[int, int], matrix.shape)[0] for matrix in (labels, features))
    if num_texts != num_rows:
        problem = f"there are labels of {num_texts} texts, but features of {num_rows}"
        raise DataError("label features", problem, "Prepare the data again.")
    require_finite(features)
    by_label = sparse.csr_matrix((np.ones(labels.nnz, np.int8), labels.indices, labels.indptr), labels.shape).tocsc()
    return weighted_sums(sparse.csr_matrix(by_label.T), features, top_k, threads=threads)


def require_finite(features: sparse.csr_matrix | sparse.csr_array) -> None:
    """Raise `DataError` if a text feature is infinite or NaN."""
    if not np.isfinite(features.data).all():
        raise DataError("label features", "a text feature is not finite", "Prepare the data again.")


def weighted_sums(
    weights: sparse.csr_matrix, features: sparse.csr_matrix | sparse.csr_array, top_k: int,
    *, threads: int | None = None,
) -> sparse.csr_matrix:  # fmt: skip
    """Sum rows of features: the `top_k` largest entries of each row of weights x features, with norm 1.

    Args:
        weights: CSR [L, N]; each product of a weight and a feature is rounded to a multiple of 2**-24.
        features: CSR float32 [N, F], finite.
        top_k: largest sums kept per row; ties keep the first.
        threads: None uses OMP_NUM_THREADS or the cores that this process may run on.

    Returns:
        float32 CSR [L, F], with sorted columns. A row without weights is empty.
    """
    num_labels = cast(tuple[int, int], weights.shape)[0]
    num_features = cast(tuple[int, int], features.shape)[1]
    members = _Csr(weights.indptr.astype(np.int64), weights.indices, weights.data)
    member_rows = _Csr(features.indptr.astype(np.int64), features.indices, features.data)
    work = np.concatenate([[0], np.cumsum(np.diff(member_rows.indptr)[members.indices])])[members.indptr]
    room = np.concatenate([[0], np.cumsum(np.minimum(np.diff(work), top_k))])
    rows: list[tuple[np.ndarray, ...]] = [(np.zeros(1, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))]
    with ThreadPool(threads or default_threads()) as pool:
        start = 0
        while start < num_labels:
            end = max(start + 1, int(np.searchsorted(room, room[start] + _BLOCK_ENTRIES, side="right")) - 1)
            cuts = np.linspace(work[start], work[end], _PARTS_PER_THREAD * pool.threads + 1)[1:-1]
            bounds = [start, *(start + np.searchsorted(work[start:end], cuts)).tolist(), end]
            tasks = [
                (members, member_rows, num_features, top_k, room[low : high + 1], low) for low, high in pairwise(bounds)
            ]
            rows.extend(pool.run(_sum_members, tasks))
            start = end
    lengths, indices, values = (np.concatenate(part) for part in zip(*rows, strict=True))
    return sparse.csr_matrix((values, indices, np.cumsum(lengths)), (num_labels, num_features))


@cached_njit(nogil=True)
def _sum_members(
    members: _Csr, features: _Csr, num_features: int, top_k: int, room: np.ndarray, first: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Concatenated lengths, columns and values of the rows first..first + len(room) - 1 of the result.

    A row is at most as long as the difference of its two values in `room`.
    """
    num_labels, to = len(room) - 1, 0
    lengths = np.empty(num_labels, np.int64)
    to_columns, to_values = np.empty(room[-1] - room[0], np.int32), np.empty(room[-1] - room[0], np.float32)
    sums, seen, touched = np.zeros(num_features), np.zeros(num_features, np.bool_), np.empty(num_features, np.int32)
    keys, scratch = np.empty(num_features, np.float32), np.empty(num_features, np.float32)
    for i in range(num_labels):
        count = 0
        for member in range(members.indptr[first + i], members.indptr[first + i + 1]):
            row, weight = members.indices[member], np.float64(members.values[member])
            for at in range(features.indptr[row], features.indptr[row + 1]):
                column = features.indices[at]
                sums[column] += np.rint(weight * features.values[at] * GRID) / GRID
                if not seen[column]:
                    seen[column] = True
                    touched[count] = column
                    count += 1
        columns = np.sort(touched[:count])
        for j in range(count):
            keys[j] = sums[columns[j]]
            sums[columns[j]] = 0
            seen[columns[j]] = False
        lengths[i] = keep_largest(columns, keys, scratch, top_k, to_columns[to:], to_values[to:])
        to += lengths[i]
    return lengths, to_columns[:to].copy(), to_values[:to].copy()


@cached_njit(nogil=True)
def keep_largest(
    columns: np.ndarray,
    keys: np.ndarray,
    scratch: np.ndarray,
    top_k: int,
    to_columns: np.ndarray,
    to_values: np.ndarray,
) -> int:
    """Copy the `top_k` columns with the largest keys (ties keep the first), with norm 1. Returns their number."""
    n = len(columns)
    threshold, ties = np.float32(-np.inf), n
    if n > top_k:
        threshold = kth_largest(keys[:n], top_k, scratch)
        ties = top_k - (keys[:n] > threshold).sum()
    count, square = 0, 0.0
    for i in range(n):
        if keys[i] < threshold or keys[i] == 0:
            continue
        if keys[i] == threshold:
            if ties == 0:
                continue
            ties -= 1
        to_columns[count], to_values[count] = columns[i], keys[i]
        square += np.float64(keys[i]) ** 2
        count += 1
    for i in range(count):
        to_values[i] = to_values[i] / np.sqrt(square)
    return count
