"""The way of a rank's texts to the ranks that own the leaves they want, and back.

A rank sends the features of a text to the owners of a leaf of its shortlist only, and with them each owner's pairs
(text, leaf) and the true labels among their rows. The pairs that arrive are as many as the rank's own texts have,
whatever the number of ranks; the features are at most as many as the pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cxml.data import lengths_to_offsets
from cxml.parallel.exchange import Exchange
from cxml.parallel.row_layout import RowLayout


@dataclass(frozen=True)
class Arrived:
    """What a rank gets from all ranks that share the rows, from one rank after the other.

    Attributes:
        pair_texts: int64 [P], rising; the row of a pair's text among the S features that arrived.
        pair_leaves: int64 [P], local numbers of this rank's own leaves.
        inverse_counts: float32 [S], one over the length of each text's whole shortlist.
        true_pairs: int64 [T], pairs whose leaf has a true label of their text.
        true_rows: int64 [T], the label's row within the leaf.
    """

    pair_texts: np.ndarray
    pair_leaves: np.ndarray
    inverse_counts: np.ndarray
    true_pairs: np.ndarray
    true_rows: np.ndarray


class Route:
    """How the texts of one batch travel; every method is a collective call of the ranks that share the rows."""

    def __init__(self, exchange: Exchange, layout: RowLayout, nodes_BK: np.ndarray, positive_keys: np.ndarray) -> None:
        """Sort this rank's pairs by owner.

        Args:
            exchange: the ranks that share the rows.
            layout: which of them owns which leaf.
            nodes_BK: int64 [B, K], the leaves that each text wants, -1 where there is none.
            positive_keys: int64, text times labels plus label position, of the true labels; those of no wanted leaf
                are left out.
        """
        self._exchange, self._num_texts, self._size = exchange, len(nodes_BK), layout.num_shards
        texts, columns = np.nonzero(nodes_BK >= 0)
        leaves = nodes_BK[texts, columns]
        keys = self._keys(layout, texts, leaves)
        order = np.argsort(keys, kind="stable")
        keys, texts, leaves = keys[order], texts[order], leaves[order]
        owners, self._pair_leaves = leaves % self._size, leaves // self._size
        is_first = np.diff(owners * self._num_texts + texts, prepend=-1) > 0
        self._sent_texts = texts[is_first]
        sent_owners = owners[is_first]
        self._sent = [np.bincount(each, minlength=self._size) for each in (sent_owners, owners)]
        row_ptr, pair_ptr = (lengths_to_offsets(counts) for counts in self._sent)
        self._pair_slots = np.cumsum(is_first) - 1 - row_ptr[owners]
        sizes = layout.leaf_offsets[leaves + 1] - layout.leaf_offsets[leaves]
        self._lengths = np.bincount(texts, sizes, self._num_texts).astype(np.int64)
        self._pair_lengths = self._lengths[texts]
        self._find_true(layout, keys, owners, pair_ptr, positive_keys)

    def _keys(self, layout: RowLayout, texts: np.ndarray, leaves: np.ndarray) -> np.ndarray:
        """Numbers of pairs in the order of owners, and of texts and leaves within."""
        most_leaves = -(-(len(layout.leaf_offsets) - 1) // self._size)
        return (leaves % self._size * self._num_texts + texts) * most_leaves + leaves // self._size

    def _find_true(
        self, layout: RowLayout, keys: np.ndarray, owners: np.ndarray, pair_ptr: np.ndarray, positive_keys: np.ndarray
    ) -> None:
        texts, positions = np.divmod(positive_keys, layout.num_labels)
        leaves = np.searchsorted(layout.leaf_offsets, positions, side="right") - 1
        wanted = self._keys(layout, texts, leaves)
        pairs = np.searchsorted(keys, wanted)
        is_there = pairs < len(keys)
        is_there[is_there] = keys[pairs[is_there]] == wanted[is_there]
        rows = (positions - layout.leaf_offsets[leaves])[is_there]
        pairs = pairs[is_there]
        order = np.argsort(pairs, kind="stable")
        pairs, self._true_rows = pairs[order], rows[order]
        self._sent.append(np.bincount(owners[pairs], minlength=self._size))
        self._true_pairs = pairs - pair_ptr[owners[pairs]]

    @property
    def inverse_sum(self) -> float:
        """The sum over this rank's texts of one over the length of the shortlist."""
        lengths = self._lengths[self._lengths > 0]
        return float((1 / lengths).sum())

    def agree(self, *values: float) -> np.ndarray:
        """Tell every rank how much it will get of this one; float64 [ranks, values], the `values` of each."""
        own = np.column_stack([*self._sent, np.tile(values, (self._size, 1))]).astype(np.float64)
        everyone = self._exchange.swap(torch.from_numpy(own), [1] * self._size, [1] * self._size).numpy()
        self._arriving = [everyone[:, column].astype(np.int64) for column in range(3)]
        return everyone[:, 3:]

    def send(self) -> Arrived:
        """Send the pairs and the true labels, after `agree`."""
        texts, pairs, true = self._arriving
        pair_parts = self._swap(np.column_stack([self._pair_slots, self._pair_leaves, self._pair_lengths]), 1)
        true_parts = self._swap(np.column_stack([self._true_pairs, self._true_rows]), 2)
        slots = pair_parts[:, 0] + np.repeat(lengths_to_offsets(texts)[:-1], pairs)
        inverse_counts = np.zeros(texts.sum(), np.float32)
        inverse_counts[slots] = 1 / pair_parts[:, 2]
        return Arrived(
            pair_texts=slots,
            pair_leaves=pair_parts[:, 1],
            inverse_counts=inverse_counts,
            true_pairs=true_parts[:, 0] + np.repeat(lengths_to_offsets(pairs)[:-1], true),
            true_rows=true_parts[:, 1],
        )

    def _swap(self, numbers: np.ndarray, what: int) -> np.ndarray:
        """Integers [n, m] of the pairs (1) or of the true labels (2), as int32 on the way."""
        sizes = self._sent[what].tolist(), self._arriving[what].tolist()
        return self._exchange.swap(torch.from_numpy(numbers.astype(np.int32)), *sizes).numpy().astype(np.int64)

    def send_features(self, features_BD: Tensor) -> Tensor:
        """The features [S, D] of the texts that arrive, in the type and on the device of this rank's."""
        sent = features_BD[torch.from_numpy(self._sent_texts).to(features_BD.device)]
        return self._exchange.swap(sent, self._sent[0].tolist(), self._arriving[0].tolist())

    def bring_back(self, sums: Tensor) -> Tensor:
        """For the texts that arrived, [S, n], what is to be added up over owners; [B, n] for this rank's texts."""
        back = self._exchange.swap(sums, self._arriving[0].tolist(), self._sent[0].tolist())
        total = back.new_zeros(self._num_texts, *back.shape[1:])
        return total.index_add_(0, torch.from_numpy(self._sent_texts).to(back.device), back)
