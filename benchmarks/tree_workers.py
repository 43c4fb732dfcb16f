"""Measures the speed-up of the label tree's build by a second Ray worker, with one thread each and the same tree.

    python benchmarks/tree_workers.py [--quick] [--labels 1000000]

The data set has the texts of ICD-10-CM with their tf-idf of words and word pairs, and the requested number of synthetic
labels, with 25 terms each (see tree.py). The time covers all that workers do once they have started: label features
from the Arrow shards, and the splits down to leaves of at most 16 labels. The benchmark needs two free cores. The last
line is JSON.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import ray
from rich.console import Console
from rich.table import Table
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from support.closing_line import print_closing_line
from tree import NUM_TERMS, SYNTHETIC_TERMS, synthetic_labels

from cxml.config import Config, DataConfig, SourceConfig, TreeConfig
from cxml.data import DatasetWriter, Examples, Ragged, ShardedDataset, TokenizerInfo
from cxml.formats import read_source
from cxml.tree import plan_splits
from cxml.tree.distributed import BuildJournal
from cxml.tree.distributed.build import make_job, make_splits
from cxml.tree.distributed.fleet import Fleet
from cxml.tree.kmeans import initial_order

GOAL = 1.7
WORKERS = (1, 2)
LEAF_LABELS = 16
SHARD_ROWS = 8192


def main() -> None:
    """Write the data set, build its tree with one and two workers alternately, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="50,000 labels, one round: under 50 s")
    parser.add_argument("--labels", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    num_labels, rounds = (min(options.labels, 50_000), 1) if options.quick else (options.labels, options.rounds)
    with tempfile.TemporaryDirectory() as folder:
        config = write_dataset(folder, num_labels)
        ray.init(num_cpus=max(WORKERS), include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        runs = [{count: build(config, count) for count in WORKERS} for _ in range(rounds)]
        ray.shutdown()
    orders = [order for run in runs for _, order in run.values()]
    assert all(np.array_equal(order, orders[0]) for order in orders), "the trees differ"
    seconds = {count: statistics.median(run[count][0] for run in runs) for count in WORKERS}
    table = Table("workers", "seconds", "speed-up", title=f"{num_labels:,} labels, one thread a worker")
    for count in WORKERS:
        table.add_row(str(count), f"{seconds[count]:.1f}", f"{seconds[1] / seconds[count]:.2f}")
    Console(width=110).print(table)
    print_closing_line(
        f"label tree on two Ray workers, {num_labels} labels", seconds[2], "s", seconds[1],
        goal=GOAL, lower_is_better=True,
    )  # fmt: skip


def write_dataset(folder: str, num_labels: int) -> Config:
    """Write a data set of synthetic labels on the real texts; return a config that clusters them."""
    train = read_source(SourceConfig(kind="icd10cm")).splits["train"]
    tfidf = TfidfVectorizer(dtype=np.float32, max_features=NUM_TERMS, ngram_range=(1, 2))  # pyright: ignore
    texts = sparse.csr_matrix(tfidf.fit_transform(train.texts))
    labels = synthetic_labels(train, num_labels)
    labelled = np.diff(labels.indptr) > 0
    texts, labels = sparse.csr_matrix(texts[labelled]), sparse.csr_matrix(labels[labelled])
    texts.sort_indices()
    url = str(Path(folder, "data"))
    writer = DatasetWriter(url)
    writer.write_labels([str(label) for label in range(num_labels)], np.bincount(labels.indices, minlength=num_labels))
    for start in range(0, len(texts.indptr) - 1, SHARD_ROWS):
        features, rows = texts[start : start + SHARD_ROWS], labels[start : start + SHARD_ROWS]
        count = len(features.indptr) - 1
        tokens = Ragged(np.zeros(count, np.int32), np.arange(count + 1, dtype=np.int64))
        writer.write_shard(
            "train", Examples(tokens, Ragged(rows.indices, rows.indptr.astype(np.int64)), features, None)
        )
    nobody = TokenizerInfo(name="none", fingerprint="", pad_id=0, vocab_size=1)
    writer.commit(fingerprint="synthetic", config={}, tokenizer=nobody, num_features=NUM_TERMS, source={})
    levels = tuple(2**level for level in range(1, int(np.ceil(np.log2(num_labels / LEAF_LABELS))) + 1))
    data = DataConfig(source=SourceConfig(kind="icd10cm"), directory=url)
    return Config(output=folder, data=data, tree=TreeConfig(level_sizes=levels, feature_top_k=SYNTHETIC_TERMS))


def build(config: Config, num_workers: int) -> tuple[float, np.ndarray]:
    """Seconds of a build from the moment that its workers are ready, and the resulting order of the labels."""
    dataset = ShardedDataset(config.data.directory, "train")
    num_labels = dataset.manifest.num_labels
    with tempfile.TemporaryDirectory() as folder:
        BuildJournal(folder).begin("benchmark")
        job, plan = make_job(config, dataset, folder), plan_splits(num_labels, config.tree.sizes)
        order = initial_order(num_labels, config.seed)
        with Fleet(job, num_workers, max(WORKERS)) as fleet:
            ray.get([actor.__ray_ready__.remote() for actor in fleet.actors])
            began = time.perf_counter()
            make_splits(job, fleet, plan.splits, order)
            return time.perf_counter() - began, order


if __name__ == "__main__":
    main()
