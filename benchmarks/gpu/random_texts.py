"""Random texts that replace those of a data set in a training and an evaluation."""

from __future__ import annotations

import numpy as np

from cxml.data import DataManifest, Ragged
from cxml.data.manifest import ShardInfo, TokenizerInfo


class RandomTexts:
    """N texts that repeat one random token each and have equal numbers of random labels; satisfies `TextRows`.

    On texts of many tokens an encoder with random weights computes nearly equal features, so all texts would get the
    same shortlist.
    """

    def __init__(self, count: int, *, tokens: int, labels: int, labels_of_a_text: int, vocabulary: int) -> None:
        """Draw `count` texts of `tokens` tokens, with `labels_of_a_text` of `labels` labels each."""
        rng = np.random.default_rng(0)
        self._tokens = rng.integers(vocabulary // 2, vocabulary, count, dtype=np.int32)
        drawn = rng.integers(0, labels // labels_of_a_text, (count, labels_of_a_text))
        self._labels = np.sort(drawn * labels_of_a_text + np.arange(labels_of_a_text), axis=1).astype(np.int32)
        self.lengths = np.full(count, tokens)
        self.label_counts = np.full(count, labels_of_a_text)
        file = ShardInfo("none", labels, labels, "")
        self.manifest = DataManifest(
            version=1, fingerprint="random", config={}, tokenizer=TokenizerInfo("none", "", 0, vocabulary),
            num_labels=labels, num_features=0, labels=file, splits={}, source={},
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.lengths)

    def gather(self, indices: np.ndarray) -> tuple[Ragged, Ragged]:
        """See `TextRows.gather`."""
        tokens = np.repeat(self._tokens[indices], self.lengths[indices])
        return _even(tokens, len(indices)), _even(self._labels[indices].ravel(), len(indices))


def _even(values: np.ndarray, count: int) -> Ragged:
    return Ragged(values, np.arange(count + 1, dtype=np.int64) * (len(values) // count))
