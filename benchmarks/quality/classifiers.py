"""Measures variants of the label classifiers that are not part of cxml: losses for rare labels, averaged weights.

    python benchmarks/quality/classifiers.py --config configs/wordnet.yaml --data.source.path FOLDER
    python benchmarks/quality/classifiers.py --quick

The untrained encoder computes the features of all texts once. On these features each variant trains the classifiers of
all labels, from the centroids of docs/decisions/0013, with the same batches and rates. The benchmark prints the metrics
on the test split. The last line is JSON: P@5 of the plain variant against that of the best variant.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import sparse
from torch import Tensor
from transformers import AutoModel

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from peers.centroids import embed  # noqa: E402
from quality.compare import QUICK, metrics_of, print_metrics, write_inputs  # noqa: E402
from support.closing_line import print_closing_line  # noqa: E402
from support.configs import config_of  # noqa: E402

from cxml.config import Config  # noqa: E402
from cxml.console import set_up_logging  # noqa: E402
from cxml.data import resolve_encoder  # noqa: E402
from cxml.metrics import log_odds  # noqa: E402
from cxml.preparation import prepare  # noqa: E402
from cxml.progress import track  # noqa: E402
from cxml.training.centroids import BIAS, SCALE  # noqa: E402
from cxml.training.evaluation import propensity_weights  # noqa: E402

BATCH, RATE, EPOCHS = 256, 0.02, 3
EMA = 0.99  # averages about the last 100 steps
PLAIN = "plain"


@dataclass(frozen=True)
class Problem:
    """Features of train and test texts, [N, D] and [M, D], the train texts' labels, and statistics of each label."""

    train: Tensor
    test: Tensor
    labels: sparse.csr_matrix
    log_odds: Tensor
    """Log odds that a train text has the label, float32 [L]."""
    inverse_propensity: Tensor
    """Float32 [L]."""


@dataclass(frozen=True)
class Trained:
    """Classifiers after the last step, and averages over the steps, each as (weights [L, D], biases [L])."""

    last: tuple[Tensor, Tensor]
    ema: tuple[Tensor, Tensor]
    swa: tuple[Tensor, Tensor]


def main() -> None:
    """Parse, embed, train, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small chapter of ICD-10-CM: under 50 s")
    parser.add_argument("--config", default=str(ROOT / "configs" / "wordnet.yaml"))
    options, rest = parser.parse_known_args()
    if options.quick:
        options.config = str(ROOT / "configs" / "icd10cm.yaml")
        rest = [*QUICK, "--output", "runs/benchmarks/quality-quick", *rest]
    config = config_of("classifiers.py", ["--config", options.config, *rest])
    set_up_logging(is_main=True)
    prepare(config)
    report(config, variants(make_problem(config)))


def make_problem(config: Config) -> Problem:
    """Compute features, shifted and scaled such that their mean is 0 and the mean of their squared norms is 1."""
    folder = write_inputs(config)
    encoder = AutoModel.from_pretrained(resolve_encoder(config.model.encoder)).eval()
    train, test = (embed(encoder, folder / f"{split}_tokens.npz") for split in ("train", "test"))
    mean = train.mean(0)
    spread = (train - mean).square().sum(1).mean().sqrt()
    labels = sparse.load_npz(folder / "train_labels.npz").tocsr()
    weights = propensity_weights(config)
    odds = torch.from_numpy(log_odds(np.bincount(labels.indices, minlength=len(weights)), len(train)))
    inverse = torch.from_numpy(weights).float()
    return Problem((train - mean) / spread, (test - mean) / spread, labels, odds, inverse)


def variants(problem: Problem) -> dict[str, Tensor]:
    """The five best labels of each test text, int64 [M, 5], by the name of the variant."""

    def plain(logits: Tensor, truth: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, truth, reduction="sum")

    def by_propensity(logits: Tensor, truth: Tensor) -> Tensor:
        weights = 1 + truth * (2 * problem.inverse_propensity - 2)  # Qaraei et al. 2021: 2 / p - 1 for a true label
        return F.binary_cross_entropy_with_logits(logits, truth, weights, reduction="sum")

    def adjusted(logits: Tensor, truth: Tensor) -> Tensor:
        return plain(logits + problem.log_odds / 2, truth)  # Menon et al. 2021, by half

    usual = train(problem, plain, PLAIN)
    tail = problem.log_odds / 4
    return {
        PLAIN: best(problem, usual.last),
        "exponential average of the weights": best(problem, usual.ema),
        "average of the weights over the last third": best(problem, usual.swa),
        "ranked by the logit minus a quarter of the log odds": best(problem, usual.last, tail),
        "loss of true labels weighted by propensity": best(problem, train(problem, by_propensity, "propensity").last),
        "trained with half the log odds added": best(problem, train(problem, adjusted, "adjusted", 0.5).last),
    }


def train(problem: Problem, loss: Callable[[Tensor, Tensor], Tensor], name: str, less_odds: float = 0.0) -> Trained:
    """Train from centroids by AdamW with a cosine schedule; biases start lower by `less_odds` times the log odds."""
    weight, bias = from_centroids(problem)
    bias -= less_odds * problem.log_odds
    held = [weight.requires_grad_(), bias.requires_grad_()]
    ema, swa = ([tensor.detach().clone() for tensor in held] for _ in range(2))
    optimizer = torch.optim.AdamW(held, lr=RATE, weight_decay=0.0, fused=True)
    num_texts, generator = len(problem.train), torch.Generator().manual_seed(0)
    batches = torch.cat([torch.randperm(num_texts, generator=generator) for _ in range(EPOCHS)]).split(BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
    for step, rows in enumerate(track(batches, len(batches), name), start=1):
        truth = torch.from_numpy(problem.labels[rows.numpy()].toarray()).float()
        optimizer.zero_grad()
        (loss(problem.train[rows] @ weight.T + bias, truth) / len(rows)).backward()
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            late = step - 2 * len(batches) // 3
            for average, tensor in zip(ema, held, strict=True):
                average.lerp_(tensor, 1 - EMA)
            for average, tensor in zip(swa, held, strict=True):
                average.lerp_(tensor, 1 / max(1, late))
    return Trained((weight.detach(), bias.detach()), (ema[0], ema[1]), (swa[0], swa[1]))


def from_centroids(problem: Problem) -> tuple[Tensor, Tensor]:
    """Weights [L, D] and biases [L] from the labels' centroids, as in cxml.training.centroids."""
    members = sparse.csr_matrix(problem.labels.T, dtype=np.float32)
    weight = SCALE * F.normalize(torch.from_numpy(members @ problem.train.numpy()), dim=1)
    return weight, BIAS + problem.log_odds / 2


@torch.no_grad()
def best(problem: Problem, classifiers: tuple[Tensor, Tensor], less: Tensor | float = 0.0) -> Tensor:
    """The five best labels of each test text, ranked by the logit minus `less`."""
    weight, bias = classifiers
    return torch.cat([(part @ weight.T + (bias - less)).topk(5).indices for part in problem.test.split(BATCH)])


def report(config: Config, found: dict[str, Tensor]) -> None:
    """Print the table and the closing line."""
    metrics = {name: metrics_of(config, labels.numpy()) for name, labels in found.items()}
    print_metrics(metrics)
    others = max(one["P@5"] for name, one in metrics.items() if name != PLAIN)
    print_closing_line("classifiers", metrics[PLAIN]["P@5"], "P@5, %", others, goal=0.99)


if __name__ == "__main__":
    main()
