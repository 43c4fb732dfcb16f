"""Label features: PIFA (positive instance feature aggregation), the sum of the tf-idf rows of a label's texts.

Feature values are rounded to multiples of 2**-24 and summed in float64, which is exact for sums below 2**29: the
result does not depend on the order of the texts, nor on how they are spread over shards or threads.
"""

from __future__ import annotations

from typing import cast

import numpy as np
from numba import get_num_threads, njit, prange
from scipy import sparse

from cxml.errors import DataError
from cxml.tree.selection import kth_largest

_GRID = 2.0**24
_BLOCK_ENTRIES = 1 << 24
"""Most entries of the labels that are worked on together: bounds the memory beside the result to about 130 MB."""


def pifa(
    labels: sparse.csr_matrix | sparse.csr_array, features: sparse.csr_matrix | sparse.csr_array, top_k: int
) -> sparse.csr_matrix:
    """Sum each label's text features: the `top_k` largest of each row of labels^T features, with norm 1.

    Args:
        labels: which labels each text has, CSR [N, L]; only where entries are counts, not their values.
        features: text features, such as tf-idf, CSR [N, F].
        top_k: largest features kept per label; of equal ones the first.

    Returns:
        float32 CSR [L, F], columns in order. A label without texts gets an empty row.

    Raises:
        DataError: texts differ in number, or a feature is not finite.
    """
    num_texts, num_labels = cast(tuple[int, int], labels.shape)
    num_rows, num_features = cast(tuple[int, int], features.shape)
    if num_texts != num_rows:
        problem = f"labels of {num_texts} texts, but features of {num_rows}"
        raise DataError("label features", problem, "Prepare the data again.")
    if not np.isfinite(features.data).all():
        raise DataError("label features", "a text feature is not finite", "Prepare the data again.")
    texts_of = sparse.csr_matrix((np.ones(labels.nnz, np.int8), labels.indices, labels.indptr), labels.shape).tocsc()
    entries = np.concatenate([[0], np.cumsum(np.diff(features.indptr)[texts_of.indices], dtype=np.int64)])
    entries = entries[texts_of.indptr]  # of all texts before each label's
    room = np.concatenate([[0], np.cumsum(np.minimum(np.diff(entries), top_k))])
    lengths, indices, values = [np.zeros(1, np.int64)], [np.empty(0, np.int32)], [np.empty(0, np.float32)]
    start = 0
    while start < num_labels:
        end = max(start + 1, int(np.searchsorted(room, room[start] + _BLOCK_ENTRIES, side="right")) - 1)
        block = _sum_block(
            texts_of.indptr[start : end + 1], texts_of.indices, features.indptr, features.indices, features.data,
            num_features, entries[start : end + 1], room[start : end + 1] - room[start], top_k,
        )  # fmt: skip
        for parts, part in zip((lengths, indices, values), block, strict=True):
            parts.append(part)
        start = end
    indptr = np.cumsum(np.concatenate(lengths))
    return sparse.csr_matrix((np.concatenate(values), np.concatenate(indices), indptr), (num_labels, num_features))


def _sum_block(
    text_ptr: np.ndarray,
    texts: np.ndarray,
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    num_features: int,
    entries: np.ndarray,
    room: np.ndarray,
    top_k: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lengths, columns and values of the rows of a block of labels, one after the other."""
    to_indices, to_values = np.empty(room[-1], np.int32), np.empty(room[-1], np.float32)
    chunks = 4 * get_num_threads()
    bounds = np.searchsorted(entries, entries[0] + (entries[-1] - entries[0]) * np.arange(chunks + 1) // chunks)
    bounds[0], bounds[-1] = 0, len(room) - 1
    lengths = _sum_texts(
        text_ptr,
        texts,
        indptr,
        indices,
        values,
        num_features,
        top_k,
        room,
        np.maximum.accumulate(bounds),
        to_indices,
        to_values,
    )
    kept = np.arange(room[-1]) < np.repeat(room[:-1] + lengths, np.diff(room))
    return lengths, to_indices[kept], to_values[kept]


@njit(cache=True, nogil=True, parallel=True)
def _sum_texts(
    text_ptr: np.ndarray,
    texts: np.ndarray,
    indptr: np.ndarray,
    indices: np.ndarray,
    values: np.ndarray,
    num_features: int,
    top_k: int,
    room: np.ndarray,
    bounds: np.ndarray,
    to_indices: np.ndarray,
    to_values: np.ndarray,
) -> np.ndarray:
    """Write the row of each label to room[label].., with spare room behind it. Returns the rows' lengths."""
    lengths = np.zeros(len(room) - 1, np.int64)
    for chunk in prange(len(bounds) - 1):
        sums, seen = np.zeros(num_features), np.zeros(num_features, np.bool_)
        touched = np.empty(num_features, np.int32)
        keys, scratch = np.empty(num_features, np.float32), np.empty(num_features, np.float32)
        for label in range(bounds[chunk], bounds[chunk + 1]):
            count = 0
            for text in texts[text_ptr[label] : text_ptr[label + 1]]:
                for at in range(indptr[text], indptr[text + 1]):
                    column = indices[at]
                    sums[column] += np.rint(values[at] * _GRID) / _GRID
                    if not seen[column]:
                        seen[column] = True
                        touched[count] = column
                        count += 1
            columns = np.sort(touched[:count])
            for i in range(count):
                keys[i] = sums[columns[i]]
                sums[columns[i]] = 0
                seen[columns[i]] = False
            at = room[label]
            lengths[label] = _keep_largest(columns, keys, scratch, top_k, to_indices[at:], to_values[at:])
    return lengths


@njit(cache=True, nogil=True)
def _keep_largest(
    columns: np.ndarray,
    keys: np.ndarray,
    scratch: np.ndarray,
    top_k: int,
    to_columns: np.ndarray,
    to_values: np.ndarray,
) -> int:
    """Copy the `top_k` columns with the largest keys (of equal ones the first), with norm 1. Returns their count."""
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
