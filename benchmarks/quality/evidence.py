"""What the words of whole texts add to the cascade, on held-out training texts, over several seeds.

    python benchmarks/quality/evidence.py --config configs/wordnet.yaml --data.source.path FOLDER [--share 0.2]
    python benchmarks/quality/evidence.py --quick

Of the training texts a share is taken, and a fifth of it held out; the test texts are not looked at. Of the others some
are validation texts, on which the combination is learnt. Options of `python -m cxml.train` that follow hold for every
run. Runs that are finished are not run again. Prints the metrics of the cascade, of the words, of the mean of both and
of what was learnt of both; what the words cost to train (CPU seconds, once more), to predict and to keep. The last line
is JSON: P@1 of what was learnt against that of the cascade.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from quality.held_out import cells, parsed, parser_of
from support.closing_line import print_closing_line
from support.configs import config_of

from cxml.config import Config
from cxml.data import ShardedDataset, data_url, train_texts
from cxml.evidence import CANDIDATES, WordEvidence, rank, read_evidence, train_word_model
from cxml.metrics import metric_sums
from cxml.pipeline import run
from cxml.prediction import Predictor
from cxml.training import words_url
from cxml.training.weights import label_weights
from cxml.tree import LabelTree, tree_url

WAYS = ("cascade", "words", "mean", "learnt")
KS = (1, 3, 5)
METRICS = tuple(f"{name}@{k}" for name in ("P", "PSP") for k in KS)
COSTS = ("words: training, CPU s", "cascade: ms per text", "words and combination: ms per text", "words: MB")
VALIDATION = ["--evidence.words", "--train.validation-fraction", "0.15"]


def main() -> None:
    """Parse, train, print."""
    options, words = parsed(parser_of(__doc__, "evidence"))
    figures, costs = [], []
    for seed in range(options.seeds):
        places = ["--output", str(options.folder / f"seed-{seed}")]
        config = config_of("evidence", [*words, *VALIDATION, "--seed", str(seed), *places])
        run(config)
        evidence = read_evidence(words_url(config), LabelTree.load(tree_url(config)))
        found, seconds = measure(config, evidence)
        figures.append(found)
        costs.append([train_again(config), *seconds, evidence.model.num_bytes / 1e6])
    report(np.array(figures), np.array(costs))


def measure(config: Config, evidence: WordEvidence) -> tuple[list[list[float]], list[float]]:
    """METRICS of each way on the held-out texts, and milliseconds per text: of the cascade, of what words add."""
    dataset = ShardedDataset(data_url(config), "test")
    rows = np.arange(len(dataset))
    cascade = Predictor.from_checkpoint(config.output, words=False)
    k = min(CANDIDATES, len(cascade.names))
    evidence.model.predict(dataset.features(rows[:1]), k)  # loads its compiled code
    began = time.perf_counter()
    alone = cascade.predict_tokens(dataset.gather(rows)[0], k)
    after_cascade = time.perf_counter()
    features = evidence.vocabulary.of_texts(dataset.texts(rows))
    evidence.combine(features, alone.labels, alone.scores, max(KS))
    after_words = time.perf_counter()
    pairs = evidence.pairs(features, alone.labels, alone.scores, k)
    truth, weights = dataset.labels_csr(), label_weights(config)
    found = []
    for way in WAYS:
        labels, _ = rank(pairs, evidence.combination.score_by(way, pairs), len(rows), max(KS))
        metrics = metric_sums(labels, truth, KS, weights).result()
        found.append([metrics[name] for name in METRICS])
    seconds = (after_cascade - began, after_words - after_cascade)
    return found, [1000 * each / len(rows) for each in seconds]


def train_again(config: Config) -> float:
    """CPU seconds of training the word model, its code compiled."""
    texts = train_texts(data_url(config), config.train.validation_fraction)
    features, labels = texts.features(np.arange(len(texts))), texts.labels_csr()
    began = time.process_time()
    train_word_model(features, labels, LabelTree.load(tree_url(config)), seed=config.seed)
    return time.process_time() - began


def report(figures: np.ndarray, costs: np.ndarray) -> None:
    """Print the tables and the closing line; `figures` are [seeds, WAYS, METRICS], `costs` [seeds, COSTS]."""
    table = Table("", *METRICS, *(f"{name} - cascade's" for name in METRICS))
    for number, way in enumerate(WAYS):
        own = figures[:, number]
        table.add_row(way, *cells(own, signed=False), *cells(own - figures[:, 0], signed=True))
    Console(width=170).print(table)
    table = Table(*COSTS)
    table.add_row(*cells(costs, signed=False))
    Console(width=140).print(table)
    cascade, learnt = (float(figures[:, WAYS.index(way), 0].mean()) for way in ("cascade", "learnt"))
    print_closing_line("evidence, learnt", learnt, "P@1, %", cascade, goal=1.0)


if __name__ == "__main__":
    main()
