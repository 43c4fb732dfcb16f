"""Prediction over a split and its metrics, spread over ranks exactly: every text once, sums added up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from scipy import sparse

from cxml.config import EvaluateConfig
from cxml.console import track
from cxml.data import Batch, EvalLoader, ShardedDataset
from cxml.metrics import MetricSums, metric_sums
from cxml.model import LevelPrediction
from cxml.parallel import Ranks
from cxml.tree import LabelTree

Predict = Callable[[Batch, int], list[LevelPrediction]]


@dataclass(frozen=True)
class SplitPrediction:
    """The best nodes of n texts.

    Attributes:
        rows: int64 [n], which texts of the split.
        nodes: one int64 [n, K] per level, best first, -1 where there is none; labels, the last, as label ids.
        scores: one float32 [n, K] per level.
    """

    rows: np.ndarray
    nodes: list[np.ndarray]
    scores: list[np.ndarray]


def predict_split(predict: Predict, loader: EvalLoader, k: int, ranks: Ranks) -> SplitPrediction:
    """Predict this rank's share of a split."""
    rows, predictions = [np.zeros(0, np.int64)], []
    batches = track(loader, len(loader), "predict") if ranks.is_first else loader
    for indices, batch in batches:
        rows.append(indices)
        predictions.append([_first(p, len(indices)) for p in predict(batch.to(ranks.device), k)])
    by_level = list(zip(*predictions, strict=True))
    return SplitPrediction(
        rows=np.concatenate(rows),
        nodes=[torch.cat([p.nodes for p in level]).cpu().numpy() for level in by_level],
        scores=[torch.cat([p.scores for p in level]).cpu().numpy() for level in by_level],
    )


def _first(prediction: LevelPrediction, count: int) -> LevelPrediction:
    """Without what was predicted for texts that are only there to keep step."""
    return LevelPrediction(nodes=prediction.nodes[:count], scores=prediction.scores[:count])


def evaluate(
    predict: Predict,
    dataset: ShardedDataset,
    tree: LabelTree,
    inverse_propensity: np.ndarray,
    *,
    config: EvaluateConfig,
    ranks: Ranks,
) -> list[dict[str, float]]:
    """Metrics over a split in percent, per level, coarse to fine; the labels' come last, with PSP and PSnDCG.

    A collective call: each rank predicts its share, and all of them get the metrics of the whole.

    Args:
        predict: best nodes of each level for a batch (labels as label ids).
        dataset: the split, N texts.
        tree: maps labels to the clusters above them.
        inverse_propensity: float [L], see `cxml.metrics.inverse_propensities`.
        config: batch size and cut-offs.
        ranks: this process's place.
    """
    prediction = predict_share(predict, dataset, config, ranks)
    return score_levels(prediction, dataset, tree, inverse_propensity, config=config, ranks=ranks)


def predict_share(predict: Predict, dataset: ShardedDataset, config: EvaluateConfig, ranks: Ranks) -> SplitPrediction:
    """This rank's share of a split, with as many nodes per level as the metrics need; see `evaluate`."""
    loader = EvalLoader(
        dataset, batch_size=config.batch_size, rank=ranks.rank, world_size=ranks.world_size,
        pad_id=dataset.manifest.tokenizer.pad_id,
    )  # fmt: skip
    return predict_split(predict, loader, max(config.top_k), ranks)


def score_levels(
    prediction: SplitPrediction,
    dataset: ShardedDataset,
    tree: LabelTree,
    inverse_propensity: np.ndarray,
    *,
    config: EvaluateConfig,
    ranks: Ranks,
) -> list[dict[str, float]]:
    """Metrics of what all ranks predicted of a split, per level; a collective call, see `evaluate`."""
    truths = list(level_truths(sparse.csr_matrix(dataset.labels_csr()[prediction.rows]), tree))
    weights = [None] * len(tree.offsets) + [inverse_propensity]
    return [
        _summed_over_ranks(metric_sums(nodes, truth, config.top_k, weight), ranks).result()
        for nodes, truth, weight in zip(prediction.nodes, truths, weights, strict=True)
    ]


def gather_labels(prediction: SplitPrediction, num_rows: int, ranks: Ranks) -> tuple[np.ndarray, np.ndarray] | None:
    """The labels of the whole split and their scores, [num_rows, K], on the first rank; a collective call."""
    share = prediction.rows, prediction.nodes[-1], prediction.scores[-1]
    shares: list | None = [None] * ranks.world_size if ranks.is_first else None
    dist.gather_object(share, shares)
    if shares is None:
        return None
    width = max(nodes.shape[1] for _, nodes, _ in shares)
    labels, scores = np.full((num_rows, width), -1, np.int64), np.zeros((num_rows, width), np.float32)
    for rows, nodes, values in shares:
        labels[rows, : nodes.shape[1]], scores[rows, : nodes.shape[1]] = nodes, values
    return labels, scores


def level_truths(labels: sparse.csr_matrix, tree: LabelTree) -> Iterator[sparse.csr_matrix]:
    """The true nodes of each level as CSR [n, nodes], clusters in tree order first, the labels [n, L] last."""
    positions = np.argsort(tree.label_order)[labels.indices]
    for level in range(len(tree.offsets)):
        nodes = positions
        for offsets in reversed(tree.offsets[level:]):
            nodes = np.searchsorted(offsets, nodes, side="right") - 1
        shape = (len(labels.indptr) - 1, tree.level_sizes[level])
        yield sparse.csr_matrix((np.ones(len(nodes), np.float32), nodes, labels.indptr), shape)
    yield labels


def _summed_over_ranks(sums: MetricSums, ranks: Ranks) -> MetricSums:
    vector = torch.from_numpy(sums.to_vector()).to(ranks.device)
    dist.all_reduce(vector)
    return sums.with_vector(vector.cpu().numpy())
