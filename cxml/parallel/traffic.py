"""How many bytes the sharded levels send in a training step, on paper."""

from __future__ import annotations

from dataclasses import dataclass

_PAIR = 12  # text, leaf and share, 4 bytes each; the words that mark true rows come on top
_ROWS_OF_A_WORD = 32


@dataclass(frozen=True, kw_only=True)
class LevelTraffic:
    """What a process sends for one sharded level in a micro-batch.

    Attributes:
        ranks: processes that share the rows, R.
        texts: of a process, B.
        parents: nodes of the level above that a text hands down, K.
        width: of a feature, D.
        feature_bytes: of one number of a feature on an accelerator: 4, or 2 under bf16. CPUs send float32.
        rows_of_a_leaf: children of the largest node of the level above.
    """

    ranks: int
    texts: int
    parents: int
    width: int
    feature_bytes: int
    rows_of_a_leaf: int

    @property
    def exact(self) -> int:
        """Bytes between CPUs: a text goes to the owners of its leaves, of which it has K at most."""
        others = (self.ranks - 1) / self.ranks
        owners = self.ranks * (1 - (1 - 1 / self.ranks) ** self.parents)  # leaves are dealt, so as good as drawn
        texts = self.texts * owners * others * self._there_and_back(4)
        return round(texts + self.texts * self.parents * others * self._pair)

    @property
    def padded(self) -> int:
        """Bytes between accelerators: all features, and room for all pairs, go to every other process."""
        each = self.texts * (self._there_and_back(self.feature_bytes) + self.parents * self._pair)
        return (self.ranks - 1) * each

    @property
    def _pair(self) -> int:
        return _PAIR + 4 * -(-self.rows_of_a_leaf // _ROWS_OF_A_WORD)

    def _there_and_back(self, feature_bytes: int) -> int:
        """A feature, and the gradient and loss that come back for it in float32."""
        return self.width * feature_bytes + 4 * (self.width + 1)
