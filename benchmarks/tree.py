"""Compares the label tree with PECOS's C++ builder: time, memory and quality on the same label features.

    python benchmarks/tree.py [--quick] [--wordnet FOLDER] [--labels 1000000] [--threads 2]

Label features are PIFA over tf-idf of words and word pairs (60,000 terms). The labels are ICD-10-CM's, WordNet's if its
folder in the XMC repository's raw form is given, and the requested number of synthetic labels, with 25 terms each. A
synthetic label is the sum of five real texts. Two are texts of one real label. The other three are found by steps from
these to another of their labels, and to a text of that label.

Both builders split two ways down to leaves of at most 16 labels, with the same number of threads. They alternate in
fresh processes, and the figures are medians. Where the machine has other work, CPU seconds are more reliable than
seconds. Quality is the mean cosine of labels and their cluster's centroid at each level, and the cluster recall: the
share of the test texts' labels that are in the 10 clusters whose centroids are nearest to the text. The last
line is JSON.

omikuji's clustering is not compared, because it cannot run alone: its interface trains whole models, in which each
node's clustering is followed by the training of that node's classifiers.

The first run makes PECOS's venv (libpecos needs an older numpy) under --peers, which takes a minute.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from support.closing_line import print_closing_line
from support.peers import PECOS, PEERS_FOLDER, peer_python

from cxml.config import SourceConfig
from cxml.formats import RawSplit, read_source
from cxml.tree import cluster_recall, mean_cosine, pifa
from cxml.tree.thread_pool import default_threads

GOAL = 2.0
SLACK = 0.002  # in cosine: about the difference between two seeds of one builder
WORKER = Path(__file__).parent / "peers" / "build_tree.py"
NUM_TERMS = 60_000
SYNTHETIC_TERMS = 25
RECALL_CLUSTERS = 10


@dataclass(frozen=True)
class Problem:
    """Label features to cluster, [L, F]; for real labels also the test texts, [N, F], and their labels, [N, L]."""

    name: str
    features: sparse.csr_matrix
    test_features: sparse.csr_matrix | None = None
    test_labels: sparse.csr_matrix | None = None

    @property
    def num_labels(self) -> int:
        """Number of labels L."""
        return len(self.features.indptr) - 1


@dataclass(frozen=True)
class Outcome:
    """Results of one builder: medians, and quality by level (coarse to fine)."""

    seconds: float
    cpu_seconds: float
    bytes: float
    cosines: list[float]
    recall: list[float]


def main() -> None:
    """Parse, make the problems, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100,000 synthetic labels, one round: under 50 s")
    parser.add_argument("--wordnet", help="folder of WordNet in the XMC repository's raw form")
    parser.add_argument("--labels", type=int, default=1_000_000, help="number of synthetic labels")
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--rounds", type=int, default=3, help="runs of each builder")
    parser.add_argument("--peers", type=Path, default=PEERS_FOLDER, help="folder of the venvs")
    options = parser.parse_args()
    rounds, labels = (1, min(options.labels, 100_000)) if options.quick else (options.rounds, options.labels)
    pythons = {"cxml": sys.executable, "pecos": peer_python(options.peers, "pecos", PECOS)}
    for problem in make_problems(options.wordnet, labels):
        outcomes = measure(problem, pythons, options.threads, rounds)
        report(problem, outcomes, options.threads)
    print_summary(problem, outcomes)


def make_problems(wordnet: str | None, num_synthetic: int) -> list[Problem]:
    """Problems of ICD-10-CM, of WordNet if given, and of synthetic labels from the texts of the last of these."""
    sources = {"ICD-10-CM": SourceConfig(kind="icd10cm")}
    if not wordnet:
        print("WordNet is left out; give its folder with --wordnet", flush=True)
    else:
        sources["WordNet"] = SourceConfig(kind="xmc", path=wordnet)
    problems = []
    for name, source in sources.items():
        raw = read_source(source)
        train, test = raw.splits["train"], raw.splits["test"]
        tfidf = TfidfVectorizer(dtype=np.float32, max_features=NUM_TERMS, ngram_range=(1, 2))  # pyright: ignore
        texts = sparse.csr_matrix(tfidf.fit_transform(train.texts))
        features = pifa(train.labels, texts, 1000)
        problems.append(Problem(name, features, sparse.csr_matrix(tfidf.transform(test.texts)), test.labels))
    problems.append(
        Problem(f"{num_synthetic:,} from {name}", pifa(synthetic_labels(train, num_synthetic), texts, SYNTHETIC_TERMS))
    )
    return problems


def synthetic_labels(train: RawSplit, num_labels: int) -> sparse.csr_matrix:
    """Draw labels that have five real texts each, CSR float32 [N, L]."""
    rng = np.random.default_rng(0)
    labels_of = sparse.csr_matrix(train.labels)
    texts_of = sparse.csc_array(labels_of)

    def pick(matrix: sparse.csr_matrix | sparse.csc_array, rows: np.ndarray) -> np.ndarray:
        start = matrix.indptr[rows]
        return matrix.indices[start + (rng.random(len(rows)) * (matrix.indptr[rows + 1] - start)).astype(np.int64)]

    base = rng.choice(np.flatnonzero(np.diff(texts_of.indptr)), num_labels)
    chosen = [pick(texts_of, base), pick(texts_of, base)]
    chosen += [pick(texts_of, pick(labels_of, chosen[i])) for i in (0, 0, 1)]
    rows, columns = np.concatenate(chosen), np.tile(np.arange(num_labels), len(chosen))
    return sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), (len(train.texts), num_labels))


def measure(problem: Problem, pythons: dict[str, str], threads: int, rounds: int) -> dict[str, Outcome]:
    """Run the builders alternately, with a new seed in each round."""
    runs: dict[str, list[dict[str, float]]] = {builder: [] for builder in pythons}
    quality: dict[str, list[tuple[list[float], list[float]]]] = {builder: [] for builder in pythons}
    with tempfile.TemporaryDirectory() as folder:
        features, out = Path(folder, "features.npz"), Path(folder, "clusters.npy")
        sparse.save_npz(features, problem.features, compressed=False)
        for seed in range(rounds):
            for builder, python in pythons.items():
                command = [python, WORKER, builder, features, out, str(threads), str(seed)]
                answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                runs[builder].append(json.loads(answer.splitlines()[-1]))
                quality[builder].append(assess(problem, np.load(out)))
    return {
        builder: Outcome(
            seconds=statistics.median(run["seconds"] for run in runs[builder]),
            cpu_seconds=statistics.median(run["cpu_seconds"] for run in runs[builder]),
            bytes=statistics.median(run["bytes"] for run in runs[builder]),
            cosines=np.median([cosines for cosines, _ in quality[builder]], axis=0).tolist(),
            recall=np.median([recall for _, recall in quality[builder]], axis=0).tolist(),
        )
        for builder in pythons
    }


def assess(problem: Problem, clusters: np.ndarray) -> tuple[list[float], list[float]]:
    """Mean cosine and cluster recall at each level; `clusters` int32 [levels, L] holds each label's cluster."""
    texts, labels = problem.test_features, problem.test_labels
    cosines = [mean_cosine(problem.features, of_label) for of_label in clusters]
    if texts is None or labels is None:
        return cosines, []
    return cosines, [
        cluster_recall(problem.features, of_label, texts, labels, RECALL_CLUSTERS) for of_label in clusters
    ]


def report(problem: Problem, outcomes: dict[str, Outcome], threads: int) -> None:
    """Print the two builders side by side."""
    ours, peer = outcomes["cxml"], outcomes["pecos"]
    terms = problem.features.nnz / problem.num_labels
    table = Table(
        "", "cxml", "PECOS", "PECOS / cxml", title=f"{problem.name}: {terms:.0f} terms a label, {threads} threads"
    )
    table.add_row("seconds", f"{ours.seconds:.2f}", f"{peer.seconds:.2f}", f"{peer.seconds / ours.seconds:.2f}")
    cpu = ours.cpu_seconds, peer.cpu_seconds
    table.add_row("CPU seconds", f"{cpu[0]:.2f}", f"{cpu[1]:.2f}", f"{cpu[1] / cpu[0]:.2f}")
    table.add_row("peak, MB", f"{ours.bytes / 1e6:.0f}", f"{peer.bytes / 1e6:.0f}", f"{peer.bytes / ours.bytes:.2f}")
    for name in ("cosines", "recall"):
        for level, (mine, theirs) in enumerate(zip(getattr(ours, name), getattr(peer, name), strict=True), 1):
            if name == "cosines" or 2**level > RECALL_CLUSTERS:
                label = "mean cosine" if name == "cosines" else f"cluster recall in {RECALL_CLUSTERS}"
                table.add_row(f"{label}, {2**level:,} clusters", f"{mine:.4f}", f"{theirs:.4f}", "")
    Console(width=110).print(table)


def print_summary(problem: Problem, outcomes: dict[str, Outcome]) -> None:
    """Print the closing line for the synthetic labels; the goal also asks that no level's cosine is worse."""
    ours, peer = outcomes["cxml"], outcomes["pecos"]
    print_closing_line(
        f"label tree, {problem.num_labels} labels", ours.seconds, "s", peer.seconds, goal=GOAL, lower_is_better=True,
        provided=all(mine >= theirs - SLACK for mine, theirs in zip(ours.cosines, peer.cosines, strict=True)),
    )  # fmt: skip


if __name__ == "__main__":
    main()
