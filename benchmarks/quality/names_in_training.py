"""Measures two ways to train on label names that are not part of cxml: as a start of classifiers, and as soft targets.

    python benchmarks/quality/names_in_training.py --config configs/wordnet.yaml --data.source.path FOLDER --share 0.1
    python benchmarks/quality/names_in_training.py --quick

A share of the training texts is used, and a fifth of it is held out; the test texts are not used. Some of the other
texts are validation texts. The untrained encoder computes the features of all texts and names once. On these features
each variant trains the classifiers of all labels, with the batches, epochs and rate of the config:

- `plain`: from the centroids of the texts, as `model.classifier_start: centroids` does.
- `name start`: a centroid is the mean of a label's n texts and of NAME_TEXTS times its name.
- `mixed targets` (the idea of LEVER, Jain et al.): for a label with at most RARE texts, the target is the mean of 0 or
  1 and of a teacher's probability. The teacher is a logistic curve over the cosine of text and name, fitted on the
  validation texts.
- `raised targets`: the target is the teacher's probability where that is higher.

Each variant is trained on the texts, and on the texts and names (`train.name_texts`). The benchmark prints the metrics
of the classifiers alone, and of their learnt combination with words, neighbours and names. Options of `python -m
cxml.train` may follow; the part of names in use is that of `train.name_texts`, or all. The last line is JSON: PSP@5 of
the best of these variants against that of `plain`, both combined and with names as texts.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from scipy import sparse
from torch import Tensor
from transformers import AutoModel

sys.path.insert(0, str(Path(__file__).parent.parent))

from quality.held_out import cells, parsed, parser_of
from support.closing_line import print_closing_line
from support.configs import config_of

from cxml.config import Config
from cxml.data import (
    Ragged,
    RowSubset,
    ShardedDataset,
    TextRows,
    collate,
    data_url,
    resolve_encoder,
    train_texts,
    validation_texts,
    with_names,
)
from cxml.evidence import (
    CANDIDATES,
    NameSource,
    NeighbourSource,
    Pairs,
    Proposals,
    TextViews,
    candidate_pairs,
    choose_combination,
    rank,
    train_word_model,
    unit_rows,
)
from cxml.evidence.logistic import fit_logistic
from cxml.evidence.nearest import VectorIndex
from cxml.metrics import USUAL_GROUPS, by_group, log_odds, metric_sums, usual_groups
from cxml.training.centroids import BIAS, SCALE
from cxml.training.evaluation import propensity_weights
from cxml.tree import build

SOURCES = ("words", "neighbours", "names")
METRICS = ("P@1", "P@5", "PSP@5", "zero-shot recall@5")
KS = (1, 5)
NAME_TEXTS = 4.0  # the better of 1 and 4 on chapter 3 of ICD-10-CM
RARE = 10
DROPOUT = 0.1
AT_ONCE = 256
PLAIN = "plain"
WITH_NAMES = ", names as texts"


@dataclass(frozen=True)
class Variant:
    """A way to train."""

    name_texts: float = 0.0
    """Number of texts that a name counts as in the start."""
    targets: str = ""
    """`mixed` or `raised`, see above; empty for 0 and 1."""


VARIANTS = {
    PLAIN: Variant(),
    "name start": Variant(NAME_TEXTS),
    "mixed targets": Variant(targets="mixed"),
    "raised targets": Variant(targets="raised"),
    "name start, raised targets": Variant(NAME_TEXTS, "raised"),
}


@dataclass(frozen=True)
class Split:
    """Features of N texts [N, D], their labels, CSR [N, L], and the labels that the word model proposes."""

    features: Tensor
    labels: sparse.csr_matrix
    by_words: Proposals


@dataclass(frozen=True)
class Problem:
    """The three splits; names [n, D] and the label of each [n]; train texts and inverse propensities of labels [L]."""

    train: Split
    validation: Split
    test: Split
    names: Tensor
    named: np.ndarray
    frequency: np.ndarray
    inverse_propensity: np.ndarray


def main() -> None:
    """Parse, embed, train, print."""
    options, words = parsed(parser_of(__doc__, "names-in-training"), "--train.validation-fraction", "0.15")
    config = config_of("names_in_training", [*words, "--output", str(options.folder / "run")])
    problem = make_problem(config)
    found = {
        name + suffix: np.array([
            evaluate(problem, *train(config, problem, variant, seed, has_names=bool(suffix)))
            for seed in range(options.seeds)
        ])
        for suffix in ("", WITH_NAMES)
        for name, variant in VARIANTS.items()
    }  # fmt: skip
    report(found)


def make_problem(config: Config) -> Problem:
    """Compute the features of all splits and names, and train the word model."""
    url, share = data_url(config), config.train.validation_fraction
    validation = validation_texts(url, share)
    assert validation is not None, "a share is held out"
    train = ShardedDataset(url, "train")
    splits = train_texts(url, share), validation, ShardedDataset(url, "test")
    none = RowSubset(train, np.zeros(0, np.int64))
    names = with_names(none, url, config.train.name_texts or "(.+)", config.data.max_length)
    encoder = AutoModel.from_pretrained(resolve_encoder(config.model.encoder)).eval()
    *vectors, of_names = (embed(encoder, rows) for rows in (*splits, names))
    tf_idf, labels = [rows.features(np.arange(len(rows))) for rows in splits], [rows.labels_csr() for rows in splits]
    model = train_word_model(tf_idf[0], labels[0], build(config, train), seed=config.seed)
    by_words = [Proposals(*model.predict(words, CANDIDATES)) for words in tf_idf]
    frequency = np.bincount(labels[0].indices, minlength=names.manifest.num_labels).astype(np.int64)
    named = names.gather(np.arange(len(names)))[1].values.astype(np.int64)
    trained, validated, judged = (Split(*each) for each in zip(vectors, labels, by_words, strict=True))
    return Problem(trained, validated, judged, of_names, named, frequency, propensity_weights(config))


@torch.inference_mode()
def embed(encoder: torch.nn.Module, texts: TextRows) -> Tensor:
    """Mean of the last layer's states of each text, float32 [N, D]."""
    (tokens, labels), pad_id, found = texts.gather(np.arange(len(texts))), texts.manifest.tokenizer.pad_id, []
    order = np.argsort(tokens.lengths, kind="stable")
    for rows in np.array_split(order, -(-len(order) // AT_ONCE)):
        batch = collate(tokens.take(rows), labels.take(rows), pad_id=pad_id, global_size=len(rows))
        states = encoder(input_ids=batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
        mask = batch.attention_mask[:, :, None].float()
        found.append((states * mask).sum(1) / mask.sum(1))
    return torch.cat(found)[torch.from_numpy(np.argsort(order))]


def train(config: Config, problem: Problem, variant: Variant, seed: int, *, has_names: bool) -> tuple[Tensor, Tensor]:
    """Weights [L, D] and biases [L] of all classifiers, by AdamW with a cosine schedule.

    Args:
        config: has the size of batches, the epochs and the rate.
        problem: the texts and names.
        variant: start and targets.
        seed: seed of the batches and of dropout.
        has_names: names are trained on as texts.
    """
    torch.manual_seed(seed)
    features, labels = problem.train.features, problem.train.labels
    if has_names:
        shape = len(problem.named), len(problem.frequency)
        own = sparse.csr_matrix((np.ones(shape[0], np.float32), (np.arange(shape[0]), problem.named)), shape)
        features, labels = torch.cat([features, problem.names]), sparse.csr_matrix(sparse.vstack([labels, own]))
    held = [tensor.requires_grad_() for tensor in start(problem, features, labels, variant.name_texts)]
    teacher = Teacher(problem) if variant.targets else None
    rate = config.optim.classifier_lr
    optimizer = torch.optim.AdamW(held, lr=rate, weight_decay=0.0, fused=True)
    epochs = [torch.randperm(len(features)) for _ in range(config.train.epochs)]
    batches = torch.cat(epochs).split(config.train.batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, len(batches), pct_start=0.1, cycle_momentum=False)
    for rows in batches:
        truth = torch.from_numpy(labels[rows.numpy()].toarray()).float()
        if teacher is not None:
            truth[:, teacher.labels] = teacher.targets(features[rows], truth[:, teacher.labels], variant.targets)
        logits = F.dropout(features[rows], DROPOUT) @ held[0].T + held[1]
        optimizer.zero_grad()
        (F.binary_cross_entropy_with_logits(logits, truth, reduction="sum") / len(rows)).backward()
        optimizer.step()
        schedule.step()
    return held[0].detach(), held[1].detach()


def start(problem: Problem, features: Tensor, labels: sparse.csr_matrix, name_texts: float) -> tuple[Tensor, Tensor]:
    """Weights [L, D] and biases [L] from centroids, as in cxml.training.centroids, with each name as further texts."""
    mean = features.mean(0)
    spread = (features - mean).square().sum(1).mean().sqrt()
    sums = torch.from_numpy(sparse.csr_matrix(labels.T, dtype=np.float32) @ (features - mean).numpy())
    names = F.normalize(problem.names - problem.names.mean(0), dim=1) * spread  # names are far from the mean of texts
    sums.index_add_(0, torch.from_numpy(problem.named), names, alpha=name_texts)
    weight = F.normalize(sums, dim=1) * SCALE / spread
    counts = np.bincount(labels.indices, minlength=len(sums))
    bias = BIAS + torch.from_numpy(log_odds(counts, len(features))).float() / 2
    return weight, bias - weight @ mean


class Teacher:
    """The probability of rare labels by the similarity of text and name."""

    def __init__(self, problem: Problem) -> None:
        is_rare = problem.frequency[problem.named] <= RARE
        self.labels = torch.from_numpy(problem.named[is_rare])
        self._names = F.normalize(problem.names[torch.from_numpy(is_rare)], dim=1)
        cosines = F.normalize(problem.validation.features, dim=1) @ self._names.T
        is_true = sparse.csr_matrix(problem.validation.labels[:, problem.named[is_rare]]).toarray() > 0
        (slope,), offset = fit_logistic(cosines.double().numpy().reshape(-1, 1), is_true.ravel())
        self._slope, self._offset = float(slope), offset

    def targets(self, features: Tensor, truth: Tensor, kind: str) -> Tensor:
        """The targets of the rare labels, [B, rare], for texts with features [B, D] and true labels `truth`."""
        believed = torch.sigmoid(self._slope * (F.normalize(features, dim=1) @ self._names.T) + self._offset)
        return (truth + believed) / 2 if kind == "mixed" else torch.maximum(truth, believed)


def evaluate(problem: Problem, weight: Tensor, bias: Tensor) -> list[float]:
    """METRICS on the held-out texts: of the classifiers alone, then of their combination with all sources."""
    neighbours = NeighbourSource(
        index_of(problem.train.features), Ragged(problem.train.labels.indices, problem.train.labels.indptr),
        len(bias), *NeighbourSource.untuned,
    )  # fmt: skip
    names = NameSource(index_of(problem.names), problem.named, *NameSource.untuned)
    tuned_on = problem.validation.features.numpy(), problem.validation.labels
    sources = neighbours.tuned(*tuned_on), names.tuned(*tuned_on)
    alone, pairs = propose(problem, problem.test, weight, bias, sources)
    _, learnt_from = propose(problem, problem.validation, weight, bias, sources)
    of = problem.validation.labels, problem.inverse_propensity
    combination = choose_combination(learnt_from, *of, KS, sources=SOURCES)
    k, num_texts = max(KS), len(problem.test.features)
    combined, _ = rank(pairs, combination.score_by("learnt", pairs), num_texts, k)
    return [value for labels in (alone.labels[:, :k], combined) for value in metrics_of(problem, labels)]


def index_of(features: Tensor) -> VectorIndex:
    """An exact index of vectors [N, D]."""
    vectors = unit_rows(features.numpy()).astype(np.float16)
    return VectorIndex(vectors, np.array([0, len(vectors)]), vectors[:1].astype(np.float32))


def propose(
    problem: Problem, split: Split, weight: Tensor, bias: Tensor, sources: tuple[NeighbourSource, NameSource]
) -> tuple[Proposals, Pairs]:
    """The best labels of the classifiers, and the candidates of all parts."""
    parts = [(part @ weight.T + bias).topk(min(CANDIDATES, len(bias))) for part in split.features.split(AT_ONCE)]
    logits, labels = (torch.cat([part[place] for part in parts]) for place in (0, 1))
    alone = Proposals(labels.numpy(), torch.sigmoid(logits).numpy())
    views = TextViews(features=split.features.numpy())
    proposed = [split.by_words, *(source.propose(views, CANDIDATES) for source in sources)]
    return alone, candidate_pairs(alone, proposed, problem.frequency)


def metrics_of(problem: Problem, labels: np.ndarray) -> list[float]:
    """METRICS of the best labels of the held-out texts, int64 [N, 5]."""
    weights, groups = problem.inverse_propensity, usual_groups(problem.frequency)
    metrics = metric_sums(labels, problem.test.labels, KS, weights).result()
    found = by_group(labels, problem.test.labels, problem.frequency, weights, max(KS), group=groups)
    unseen = found.get(USUAL_GROUPS.index("zero-shot"))
    return [*(metrics[name] for name in METRICS[:-1]), unseen.recall if unseen else float("nan")]


def report(found: dict[str, np.ndarray]) -> None:
    """Print the tables and the closing line, from [seeds, 2 x METRICS] of each variant."""
    for title, columns in (("alone", slice(len(METRICS))), ("combined", slice(len(METRICS), None))):
        table = Table(title, *METRICS, *(f"{name} - plain's" for name in METRICS))
        for name, values in found.items():
            own, plain = values[:, columns], found[PLAIN + WITH_NAMES * name.endswith(WITH_NAMES)][:, columns]
            table.add_row(name, *cells(own, signed=False), *cells(own - plain, signed=True))
        Console(width=190).print(table)
    psp = {name: float(values[:, len(METRICS) + METRICS.index("PSP@5")].mean()) for name, values in found.items()}
    plain = PLAIN + WITH_NAMES
    best = max((name for name in psp if name.endswith(WITH_NAMES) and name != plain), key=psp.__getitem__)
    print_closing_line(f"names_in_training, {best}", psp[best], "PSP@5, %", psp[plain], goal=1.0)


if __name__ == "__main__":
    main()
