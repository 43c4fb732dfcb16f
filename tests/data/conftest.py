"""Small data sets written by the real writer, with their rows kept as plain Python lists."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse

from cxml.data import DatasetWriter, Examples, Ragged, TokenizerInfo

NUM_LABELS, NUM_FEATURES, VOCAB_SIZE = 50, 30, 4000


@dataclass(frozen=True)
class WrittenData:
    url: str
    input_ids: list[list[int]]
    labels: list[list[int]]
    features: sparse.csr_matrix
    texts: list[str]


def write_data(url: str, rows: int, *, shard_rows: int, seed: int = 0, keep_text: bool = True) -> WrittenData:
    """Random rows; the second token of row i is i, so that every row can be told from its tokens."""
    rng = np.random.default_rng(seed)
    input_ids = [[1, i, *rng.integers(2, VOCAB_SIZE, rng.integers(0, 12)).tolist()] for i in range(rows)]
    labels = [sorted(rng.choice(NUM_LABELS, rng.integers(1, 6), replace=False).tolist()) for _ in range(rows)]
    features = sparse.random(rows, NUM_FEATURES, 0.1, "csr", np.float32, rng=rng)
    features.sort_indices()
    texts = [f"text {i} é {'x' * (i % 7)}" for i in range(rows)]
    writer = DatasetWriter(url)
    writer.write_labels([f"label {i}" for i in range(NUM_LABELS)], np.bincount(np.concatenate(labels), minlength=50))
    for start in range(0, rows, shard_rows):
        part = slice(start, start + shard_rows)
        kept = texts[part] if keep_text else None
        ragged = Ragged.from_lists(input_ids[part]), Ragged.from_lists(labels[part])
        writer.write_shard("train", Examples(*ragged, features[part], kept))
    writer.commit(
        fingerprint="0123", config={"max_length": 14}, source={"kind": "test"}, num_features=NUM_FEATURES,
        tokenizer=TokenizerInfo("random", "4567", 0, VOCAB_SIZE),
    )  # fmt: skip
    return WrittenData(url, input_ids, labels, features, texts)


@pytest.fixture(scope="session", name="write_data")
def write_data_fixture() -> Callable[..., WrittenData]:
    return write_data


@pytest.fixture
def make_data(tmp_path: Path) -> Callable[..., WrittenData]:
    def make(rows: int, *, shard_rows: int = 10, **kwargs) -> WrittenData:
        return write_data(str(tmp_path / "data"), rows, shard_rows=shard_rows, **kwargs)

    return make


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Remote shards are not cached in the user's own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXML_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
