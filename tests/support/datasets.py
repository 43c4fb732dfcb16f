"""Writes prepared data sets from matrices, with the real writer."""

import numpy as np
from scipy import sparse

from cxml.data import DatasetWriter, Examples, Ragged, TokenizerInfo


def write_dataset(url, splits, *, names=None, shard_rows=4000):
    """Write `splits`: name -> (labels CSR [N, L], features CSR [N, F]). Every text needs a label. Returns the URL."""
    labels, features = splits["train"]
    writer = DatasetWriter(str(url))
    names = names or [f"label {i}" for i in range(labels.shape[1])]
    writer.write_labels(names, np.bincount(labels.indices, minlength=labels.shape[1]))
    for split, (labels_of_split, features_of_split) in splits.items():
        for start in range(0, labels_of_split.shape[0], shard_rows):
            label_rows, feature_rows = (
                sparse.csr_matrix(matrix[start : start + shard_rows]) for matrix in (labels_of_split, features_of_split)
            )
            rows = label_rows.shape[0]
            tokens = Ragged(np.ones(rows, np.int32), np.arange(rows + 1, dtype=np.int64))
            label_lists = Ragged(label_rows.indices.astype(np.int32), label_rows.indptr.astype(np.int64))
            writer.write_shard(split, Examples(tokens, label_lists, feature_rows, None))
    writer.commit(
        fingerprint="0123", config={}, source={"kind": "test"}, num_features=features.shape[1],
        tokenizer=TokenizerInfo("none", "4567", 0, 100),
    )  # fmt: skip
    return str(url)


def random_rows(rng, num_rows, num_columns, per_row):
    """CSR float32 with up to `per_row` entries per row. Some columns are frequent, in no particular order."""
    popularity = rng.permutation(1 / np.arange(1, num_columns + 1) ** 0.5)
    columns = rng.choice(num_columns, (num_rows, 2 * per_row), p=popularity / popularity.sum())
    rows = []
    for row in columns:
        unique = np.unique(row)
        rows.append(np.sort(rng.choice(unique, min(per_row, len(unique)), replace=False)))
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    indices = np.concatenate(rows).astype(np.int32)
    values = rng.random(len(indices), dtype=np.float32) + np.float32(0.05)
    return sparse.csr_matrix((values, indices, indptr), (num_rows, num_columns))
