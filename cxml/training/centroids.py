"""Initialise classifiers with centroids: the row of a node is the mean of its texts' features.

Half of the labels of a large label set have only a few texts, so a row that starts at zero needs many epochs to find
its direction. One forward pass over the texts gives every row of every level a useful initial direction.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cxml.data import EvalLoader, TextRows, WindowRule
from cxml.model import CascadeXML, Rows
from cxml.parallel import Exchange, Ranks
from cxml.progress import track

# logit = 16 cos(feature, centroid) - 6 + log(odds that a text is the node's) / 2, both vectors centred at the
# mean of all features. These values gave the lowest cross-entropy among those tried on features of WordNet.
SCALE = 16.0
BIAS = -6.0
_BLOCK_ROWS = 65536  # copied at once


@torch.no_grad()
def start_from_centroids(
    model: CascadeXML,
    dataset: TextRows,
    ranks: Ranks,
    batch_size: int,
    windows: WindowRule | None = None,
    *,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Initialise the heads of all levels in one pass over the texts; a collective call, before the engine is created.

    Needs 4 D bytes per label row of this process while it runs.

    Args:
        model: newly created and identical on every rank; it is moved to the ranks' device.
        dataset: the texts of the training.
        ranks: the ranks of this process.
        batch_size: texts per batch and process.
        windows: rule for splitting long texts into windows; None for no windows.
        dtype: number format in which the transformer computes the features, which are float32.
    """
    model.to(ranks.device).eval()
    encoder = model.encoder.predicting_in(dtype)
    sizes, widths, num_heads = model.level_sizes, model.encoder.feature_sizes, len(model.cluster_heads)
    heads = [_Centroids(sizes[level], widths[level], ranks.device) for level in range(num_heads)]
    sharded = zip((*model.cluster_levels, model.label_head), widths[num_heads:], strict=True)
    levels = [_RowsOfALevel(rows, width, _scale(width, model.encoder.hidden_size)) for rows, width in sharded]
    loader = EvalLoader(
        dataset, batch_size=batch_size, rank=ranks.rank, world_size=ranks.world_size,
        pad_id=dataset.manifest.tokenizer.pad_id, windows=windows,
    )  # fmt: skip
    for rows, batch in track(loader, len(loader), "centroids") if ranks.is_first else loader:
        there = batch.to(ranks.device)
        every = encoder(there.input_ids, there.attention_mask, there.windows)
        features = [each[: len(rows)] for each in every]
        keys = model.positive_keys(batch.first(len(rows)).to(ranks.device))
        for level, centroids in enumerate(heads):
            centroids.add(features[level].float(), keys[level] // sizes[level], keys[level] % sizes[level])
        for level, rows_of_level in enumerate(levels, start=len(heads)):
            rows_of_level.add(features[level], keys[level])
    for centroids, level_head in zip(heads, model.cluster_heads, strict=True):
        centroids.sum_up(Exchange().all_reduce)
        weight, bias = centroids.classifiers(SCALE)
        level_head.get_parameter("weight").copy_(weight)
        level_head.get_parameter("bias").copy_(bias)
    for rows_of_level in levels:
        rows_of_level.finish()
    model.train()


def _scale(width: int, hidden_size: int) -> float:
    """The factor of cosines. It is smaller with a bottleneck, where unrelated vectors have larger cosines.

    Cosines of unrelated vectors are about 1 / sqrt(width); the factor keeps their contribution to a logit constant.
    """
    return SCALE * math.sqrt(width / hidden_size)


class _RowsOfALevel:
    """Centroids of this process's rows of a level."""

    def __init__(self, rows: Rows, width: int, scale: float) -> None:
        self._rows, self._positions, self._scale = rows, rows.own_positions(), scale
        self._centroids = _Centroids(len(self._positions), width, self._positions.device)

    def add(self, features_BD: Tensor, positive_keys: Tensor) -> None:
        """Add B texts of this process; a collective call, because the rows are sharded."""
        self._centroids.add(*self._rows.gather_positives(features_BD, positive_keys))

    def finish(self) -> None:
        """Set the rows."""
        self._centroids.sum_up(self._rows.sum_over_replicas)
        parts = (self._positions, *self._centroids.classifiers(self._scale))
        for block in zip(*(part.split(_BLOCK_ROWS) for part in parts), strict=True):
            self._rows.import_rows(*block)


class _Centroids:
    """Sums of features: of each of n nodes, and of all texts."""

    def __init__(self, num_nodes: int, width: int, device: torch.device) -> None:
        self._sums = torch.zeros(num_nodes, width, device=device)
        self._counts = torch.zeros(num_nodes, device=device)
        self._total = torch.zeros(width, device=device, dtype=torch.float64)
        self._squares_and_texts = torch.zeros(2, device=device, dtype=torch.float64)

    def add(self, features_BD: Tensor, texts: Tensor, nodes: Tensor) -> None:
        """Add B texts; `texts` and `nodes`, int64 [P], are the true pairs among them."""
        device = self._sums.device
        features_BD, texts, nodes = features_BD.to(device), texts.to(device), nodes.to(device)
        self._sums.index_add_(0, nodes, features_BD[texts])
        self._counts.index_add_(0, nodes, torch.ones_like(nodes, dtype=torch.float32))
        self._total += features_BD.sum(0, dtype=torch.float64)
        self._squares_and_texts[0] += features_BD.square().sum(dtype=torch.float64)
        self._squares_and_texts[1] += len(features_BD)

    def sum_up(self, over_ranks: Callable[[Tensor], Tensor]) -> None:
        """Add the sums of other ranks for the same nodes."""
        for tensor in (self._sums, self._counts, self._total, self._squares_and_texts):
            over_ranks(tensor)

    def classifiers(self, scale: float) -> tuple[Tensor, Tensor]:
        """Weights float32 [n, D], scaled so that logits are `scale` times cosines, and biases float32 [n]; in place."""
        squares, num_texts = self._squares_and_texts.tolist()
        mean_D = self._total / num_texts
        spread = math.sqrt(max(squares / num_texts - float(mean_D.square().sum()), 1e-12))
        mean_D = mean_D.float()
        weight = self._sums.addr_(self._counts, mean_D, alpha=-1).div_(self._counts.clamp(min=1)[:, None])
        # A node of all texts has no direction besides rounding errors, and a node without texts has none.
        F.normalize(weight, eps=1e-3 * spread, out=weight).mul_(scale / spread)
        odds = self._counts.clamp(min=0.5) / (num_texts - self._counts + 1)
        return weight, BIAS + torch.log(odds) / 2 - weight @ mean_D
