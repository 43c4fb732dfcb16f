"""Distributed prediction over a split and exact metrics: each text is predicted once, and sums are added over ranks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from scipy import sparse

from cxml.checkpoint import load_model, model_url
from cxml.config import Config, EvaluateConfig
from cxml.data import Batch, DataManifest, EvalLoader, LabelledRows, WindowRule, data_url, read_label_table
from cxml.metrics import MetricSums, PropensityConstants, inverse_propensities, metric_sums
from cxml.model import CascadeXML, LevelPrediction, host_features, on_host
from cxml.parallel import Exchange, Ranks
from cxml.prediction import encoder_in
from cxml.progress import track
from cxml.tree import LabelTree

Predict = Callable[[Batch, int], list[LevelPrediction]]


@dataclass(frozen=True)
class SplitPrediction:
    """The best nodes of n texts.

    Attributes:
        rows: int64 [n], rows of the texts in the split.
        nodes: one int64 [n, K] per level, best first, -1 for none; the last level has label ids.
        scores: one float32 [n, K] per level.
        reached: int64 [cluster levels]: number of true labels in the clusters that the level passed on.
        features: input features of the label level, float32 [n, D]; None if not requested.
    """

    rows: np.ndarray
    nodes: list[np.ndarray]
    scores: list[np.ndarray]
    reached: np.ndarray
    features: np.ndarray | None = None


def predict_split(
    predict: Predict, loader: EvalLoader, k: int, tree: LabelTree, ranks: Ranks, *, num_labels: int = 0,
    with_features: bool = False,
) -> SplitPrediction:  # fmt: skip
    """Predict this rank's share of a split: the k best nodes of each level, and `num_labels` labels if that is more."""
    num_labels = max(k, num_labels)
    rows, predictions, features = [np.zeros(0, np.int64)], [], []
    clusters = [tree.cluster_of_label(level) for level in range(len(tree.offsets))]
    reached = np.zeros(len(clusters), np.int64)
    batches = track(loader, len(loader), "predict") if ranks.is_first else loader
    for indices, batch in batches:
        rows.append(indices)
        *above, labels = on_host(predict(batch.to(ranks.device), num_labels))
        found = [*(_best(level, k) for level in above), labels]
        if with_features:
            features.append(host_features(labels, len(indices)))
        predictions.append([_first(p, len(indices)) for p in found])
        reached += _count_reached(batch, len(indices), found, clusters)
    by_level = list(zip(*predictions, strict=True))
    return SplitPrediction(
        rows=np.concatenate(rows),
        nodes=[torch.cat([p.nodes for p in level]).numpy() for level in by_level],
        scores=[torch.cat([p.scores for p in level]).numpy() for level in by_level],
        reached=reached,
        features=np.concatenate(features) if with_features else None,
    )


def _first(prediction: LevelPrediction, count: int) -> LevelPrediction:
    """The best nodes, without those of padding texts that keep ranks in step."""
    return LevelPrediction(nodes=prediction.nodes[:count], logits=prediction.logits[:count])


def _best(prediction: LevelPrediction, k: int) -> LevelPrediction:
    """The k best nodes of each text."""
    nodes, logits = (each[:, :k].contiguous() for each in (prediction.nodes, prediction.logits))
    return dataclasses.replace(prediction, nodes=nodes, logits=logits)


def _count_reached(batch: Batch, count: int, found: list[LevelPrediction], clusters: list[np.ndarray]) -> np.ndarray:
    """The number of true labels of the first `count` texts in clusters that were passed on, int64 [levels]."""
    offsets = batch.label_offsets[: count + 1].cpu().numpy()
    labels, texts = batch.label_values[: offsets[-1]].cpu().numpy(), np.repeat(np.arange(count), np.diff(offsets))
    reached = []
    for level, own in zip(found, clusters, strict=False):
        assert level.selected is not None, "a level of clusters"
        selected = level.selected.numpy()
        reached.append(int((selected[texts] == own[labels][:, None]).any(1).sum()))
    return np.array(reached, np.int64)


def predict_by_model(config: Config, tree: LabelTree, ranks: Ranks) -> Predict:
    """A prediction function (batch, number of labels) of the run's saved cascade; a collective call."""
    return predict_with(saved_cascade(config, tree, ranks))


def saved_cascade(config: Config, tree: LabelTree, ranks: Ranks) -> CascadeXML:
    """The run's saved cascade on this rank's device, in the precision of prediction; a collective call."""
    model = load_model(model_url(config), tree, Exchange())
    encoder = encoder_in(model.encoder, config.evaluate.precision, ranks.device)
    return model.predicting_with(encoder).to(ranks.device)


def predict_with(model: CascadeXML) -> Predict:
    """A prediction function (batch, number of labels) of a cascade."""

    @torch.inference_mode()
    def predict(batch: Batch, k: int) -> list[LevelPrediction]:
        return model(batch, predict_k=k)

    return predict


def evaluate(
    predict: Predict,
    dataset: LabelledRows,
    tree: LabelTree,
    inverse_propensity: np.ndarray,
    *,
    config: EvaluateConfig,
    ranks: Ranks,
    windows: WindowRule | None = None,
) -> list[dict[str, float]]:
    """Metrics over a split in percent, per level, coarse to fine; the last level, the labels, also has PSP and PSnDCG.

    A collective call: each rank predicts its share, and all ranks get the metrics of the whole split.

    Args:
        predict: best nodes of each level for a batch (labels as label ids).
        dataset: the split, N texts.
        tree: maps labels to the clusters above them.
        inverse_propensity: float [L], see `cxml.metrics.inverse_propensities`.
        config: batch size and cut-offs.
        ranks: the ranks of this process.
        windows: rule for splitting long texts into windows; None for no windows.
    """
    prediction = predict_share(predict, dataset, tree, config, ranks, windows=windows)
    return score_levels(prediction, dataset, tree, inverse_propensity, config=config, ranks=ranks)


def predict_share(
    predict: Predict, dataset: LabelledRows, tree: LabelTree, config: EvaluateConfig, ranks: Ranks,
    *, num_labels: int = 0, windows: WindowRule | None = None, with_features: bool = False,
) -> SplitPrediction:  # fmt: skip
    """This rank's share of a split, with as many nodes per level as the metrics need; see `evaluate`.

    The label level has `num_labels` labels if that is more, limited by L.
    """
    loader = EvalLoader(
        dataset, batch_size=config.batch_size, rank=ranks.rank, world_size=ranks.world_size,
        pad_id=dataset.manifest.tokenizer.pad_id, windows=windows,
    )  # fmt: skip
    k = min(max(config.top_k), tree.num_labels)
    return predict_split(
        predict, loader, k, tree, ranks, num_labels=min(num_labels, tree.num_labels), with_features=with_features
    )


def score_levels(
    prediction: SplitPrediction,
    dataset: LabelledRows,
    tree: LabelTree,
    inverse_propensity: np.ndarray,
    *,
    config: EvaluateConfig,
    ranks: Ranks,
) -> list[dict[str, float]]:
    """Metrics per level of the predictions of all ranks; a collective call, see `evaluate`.

    A cluster level also has its `cluster_recall`: the share of true labels below the clusters that it passes on, in
    percent.
    """
    truths = list(level_truths(sparse.csr_matrix(dataset.labels_csr()[prediction.rows]), tree))
    weights = [None] * len(tree.offsets) + [inverse_propensity]
    levels = [
        _summed_over_ranks(metric_sums(nodes, truth, config.top_k, weight), ranks).result()
        for nodes, truth, weight in zip(prediction.nodes, truths, weights, strict=True)
    ]
    counts = torch.from_numpy(np.append(prediction.reached, truths[-1].nnz)).to(ranks.device)
    dist.all_reduce(counts)
    *reached, num_true = counts.tolist()
    return [
        {**metrics, "cluster_recall": 100 * count / max(num_true, 1)}
        for metrics, count in zip(levels, reached, strict=False)
    ] + levels[-1:]


def gather_labels(
    rows: np.ndarray, labels: np.ndarray, scores: np.ndarray, num_rows: int, ranks: Ranks
) -> tuple[np.ndarray, np.ndarray] | None:
    """The labels of the whole split and their scores, [num_rows, K], on the first rank; a collective call.

    Args:
        rows: int64 [n], rows of the split that this rank predicted.
        labels: int64 [n, K'].
        scores: float32 [n, K'].
        num_rows: texts in the split.
        ranks: the ranks of this process.
    """
    shares = gather_shares((rows, labels, scores), ranks)
    if shares is None:
        return None
    width = max(nodes.shape[1] for _, nodes, _ in shares)
    all_labels, all_scores = np.full((num_rows, width), -1, np.int64), np.zeros((num_rows, width), np.float32)
    for own, nodes, values in shares:
        all_labels[own, : nodes.shape[1]], all_scores[own, : nodes.shape[1]] = nodes, values
    return all_labels, all_scores


def gather_features(found: SplitPrediction, num_rows: int, ranks: Ranks) -> np.ndarray | None:
    """Features of the whole split on the first rank, float32 [num_rows, D]; a collective call.

    None on other ranks, and if no features were requested.
    """
    if found.features is None:
        return None
    shares = gather_shares((found.rows, found.features), ranks)
    if shares is None:
        return None
    features = np.zeros((num_rows, found.features.shape[1]), np.float32)
    for rows, own in shares:
        features[rows] = own
    return features


def gather_shares(share: tuple[np.ndarray, ...], ranks: Ranks) -> list | None:
    """Gather the shares of all ranks on the first one, in rank order; None elsewhere. A collective call."""
    shares: list | None = [None] * ranks.world_size if ranks.is_first else None
    dist.gather_object(share, shares)
    return shares


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


def propensity_weights(config: Config) -> np.ndarray:
    """The inverse propensity of each label, float64 [L]."""
    frequency = read_label_table(data_url(config)).frequency
    constants = PropensityConstants(config.data.propensity_a, config.data.propensity_b)
    return inverse_propensities(frequency, DataManifest.read(data_url(config)).rows("train"), constants)
