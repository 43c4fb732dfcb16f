"""Trains millions of labels on one machine: a training that is killed and resumed, its evaluation, and prediction.

    python benchmarks/scale.py [--labels 10000000] [--steps 200] [--predict-labels 0] [--wordnet FOLDER] [--quick]

The texts are ICD-10-CM's descriptions and, if WordNet's folder in the XMC repository's raw form is given, WordNet's
glosses. Each real label is replaced by a family of labels, whose size makes up the requested number. A text gets one or
two labels of each of its families, drawn by a power law, so that most labels are as rare as in the large benchmark
sets. The tree clusters the real labels by their texts; the labels of a family are adjacent.

The benchmark trains CascadeXML on MiniLM-L6 over two processes. Data, tree, checkpoints and model are in an S3 server
on this machine. When the checkpoint at half of the steps is saved, the training is killed. It is then started again,
runs to the end and saves its model, which is evaluated. Label rows are fp32 with AdamW if these take less than half of
the free memory, else bf16 with one second moment per row, else bf16 with SGD. With --predict-labels, a model with that
many random bf16 rows then predicts the test texts. Memory is the sum over all processes, including the server's,
sampled twice a second. The last line is JSON: the labels' loss over the last tenth of the steps against that over the
first.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import multiprocessing
import os
import shutil
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import psutil
import torch
from rich.console import Console
from rich.table import Table
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from support.closing_line import print_closing_line
from support.train_records import train_records

from cxml.checkpoint import checkpoints_url, list_checkpoints
from cxml.config import (
    CheckpointConfig,
    Config,
    DataConfig,
    EvaluateConfig,
    HeadConfig,
    LogConfig,
    ModelConfig,
    OptimConfig,
    SourceConfig,
    TrainConfig,
    TreeConfig,
)
from cxml.console import set_up_logging
from cxml.data import DatasetWriter, EvalLoader, Examples, Ragged, ShardedDataset, data_url
from cxml.errors import WorkerError
from cxml.formats import RawSplit, read_source
from cxml.model import build_model
from cxml.operating_system import free_memory
from cxml.optim import RowState
from cxml.parallel import Exchange, ShardedLevel, distributed, run_workers, sharded_levels
from cxml.preparation import load_tokenizer, tokenize
from cxml.training import evaluate_run, train
from cxml.tree import LabelTree, build_tree, pifa, tree_url

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from object_store import BUCKET, KEY, SECRET, s3_server  # pyright: ignore[reportMissingImports]

FINGERPRINTS = {"fp32": "scale", "bf16": "scale"}  # fingerprints of the model, by the precision of its training
NUM_RANKS, BATCH, EXPONENT, SHORTLIST = 2, 64, 1.5, 8
WIDTH = 384  # of MiniLM's features
SHARE_OF_MEMORY = 0.5  # share for the rows; the rest is for two processes, buffers and the page cache
ADAMW_RATE = 5e-3  # at the default a few hundred steps learn little
SGD_RATE_PER_LABEL = 0.032  # the gradient is that of a mean over scored labels; 3,000 at ICD-10-CM's 94 thousand


def main() -> None:
    """Parse, prepare, train, evaluate, predict, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, default=3_000_000)
    parser.add_argument("--predict-labels", type=int, default=10_000_000, help="0 skips the prediction")
    parser.add_argument("--steps", type=int, default=200, help="optimiser steps of 64 texts")
    parser.add_argument("--test-texts", type=int, default=2000)
    parser.add_argument("--clusters", type=int, nargs="+", default=[512, 16384])
    parser.add_argument("--candidates", choices=["shortlist", "all"], default="shortlist")
    parser.add_argument("--wordnet", default="", help="folder of WordNet in the XMC repository's raw form")
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks/scale"), help="its content is replaced")
    parser.add_argument("--quick", action="store_true", help="20,000 labels, 12 steps, frozen layers, no prediction")
    given = parser.parse_args()
    if given.quick:
        given.labels, given.predict_labels, given.steps, given.clusters = 20_000, 0, 12, [64, 1024]
        given.test_texts = 64
    set_up_logging(is_main=True)
    shutil.rmtree(given.folder, ignore_errors=True)
    files = given.folder / "s3"
    files.mkdir(parents=True)
    with s3_server(files, gib=2 + given.labels // 50_000) as port:
        os.environ |= {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1"}
        os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
        measure(given)


def measure(given: argparse.Namespace) -> None:
    """Run all parts that need the store."""
    texts = RealTexts.read(given.wordnet, {"train": given.steps * BATCH, "test": given.test_texts}, given.clusters)
    family = -(-given.labels // texts.num_labels)
    num_labels = family * texts.num_labels
    head = head_for(num_labels, given.candidates, given.clusters[-1])
    config = config_of(given.clusters, head, save_every=given.steps // 2, freeze_layers=5 if given.quick else 0)
    write(config, texts, family)
    table = Table(title="Memory of all processes and time", title_justify="left")
    for heading in ("", "labels", "GiB", "seconds"):
        table.add_column(heading, justify="right")

    saved = watched(table, f"train with rows in {head.weights}, {head.optimizer}", num_labels, killed_training, config)
    watched(table, "resume, save the model", num_labels, run_workers, train, (config, FINGERPRINTS), NUM_RANKS)
    report = watched(table, "evaluate", num_labels, run_workers, evaluate_run, (config,), NUM_RANKS)
    if given.predict_labels:
        family = -(-given.predict_labels // texts.num_labels)
        bf16 = dataclasses.replace(config, head=HeadConfig(weights="bf16"))
        arguments = (bf16, texts.tree, family)
        speed = watched(table, "predict", family * texts.num_labels, run_workers, predict, arguments, NUM_RANKS)
        table.caption = f"prediction: {speed * 1000:.1f} ms a text"
    Console().print(table)
    print(f"Training was killed after the checkpoint of step {saved} of {given.steps}, and resumed from it.")
    print("Metrics of the labels:", " ".join(f"{name} {value:.2f}" for name, value in report["levels"][-1].items()))
    first, last = losses(config, given.steps)
    print_closing_line("scale", last, "nats", first, goal=1.05 if given.quick else 1.25, lower_is_better=True)


def watched(table: Table, name: str, num_labels: int, work: Callable[..., Any], *arguments: object) -> Any:  # noqa: ANN401
    """Call `work` and return its result; add a row with its memory and time to the table."""
    with Watch() as watch:
        outcome = work(*arguments)
    table.add_row(name, f"{num_labels:,}", f"{watch.peak / 2**30:.2f}", f"{watch.seconds:.0f}")
    return outcome


def head_for(num_labels: int, candidates: Literal["shortlist", "all"], leaves: int) -> HeadConfig:
    """Config of the most exact rows that leave half of the free memory for everything else."""
    scored = num_labels if candidates == "all" else SHORTLIST * num_labels // leaves
    heads = (
        HeadConfig(candidates=candidates, learning_rate=ADAMW_RATE),
        HeadConfig(candidates=candidates, learning_rate=ADAMW_RATE, weights="bf16", second_moment="row"),
        HeadConfig(candidates=candidates, weights="bf16", optimizer="sgd", learning_rate=SGD_RATE_PER_LABEL * scored),
    )
    room = SHARE_OF_MEMORY * free_memory()
    return next((head for head in heads if num_labels * bytes_per_row(head) < room), heads[-1])


def bytes_per_row(head: HeadConfig) -> int:
    """Bytes of a label's row in training."""
    return RowState.bytes_per_row(
        WIDTH, optimizer=head.optimizer, weights=head.weights, second_moment=head.second_moment
    )


def killed_training(config: Config) -> int:
    """Train until the processes are killed after a checkpoint; return the step of the checkpoint."""
    killer = threading.Thread(target=kill_when_saved, args=(checkpoints_url(config),), daemon=True)
    killer.start()
    with contextlib.suppress(WorkerError):
        run_workers(train, (config, FINGERPRINTS), NUM_RANKS)
    (saved,) = list_checkpoints(checkpoints_url(config))
    return saved.step


def kill_when_saved(url: str) -> None:
    """Send SIGKILL to all workers as soon as there is a checkpoint."""
    while not list_checkpoints(url):
        time.sleep(0.2)
    for worker in multiprocessing.active_children():
        worker.kill()


@dataclass(frozen=True)
class RealTexts:
    """Texts of both splits with their real labels, and a tree of these labels."""

    splits: dict[str, RawSplit]
    tree: LabelTree

    @property
    def num_labels(self) -> int:
        """Number of real labels."""
        return self.tree.num_labels

    @classmethod
    def read(cls, wordnet: str, counts: dict[str, int], clusters: list[int]) -> RealTexts:
        """Read the sources, mix them, keep the requested numbers of texts, and cluster the labels of these."""
        sources = [SourceConfig(kind="icd10cm")] + ([SourceConfig(kind="xmc", path=wordnet)] if wordnet else [])
        parts = [read_source(source).splits for source in sources]
        rng = np.random.default_rng(0)
        splits = {}
        for split, count in counts.items():
            texts = [text for part in parts for text in part[split].texts]
            blocks = [part[split].labels for part in parts]
            labels = cast(sparse.csr_matrix, sparse.csr_matrix(sparse.block_diag(blocks, format="csr")))
            rows = rng.permutation(len(texts))[:count]
            splits[split] = RawSplit([texts[row] for row in rows], sparse.csr_matrix(labels[rows]))
        features = TfidfVectorizer(max_features=20_000).fit_transform(splits["train"].texts)
        return cls(
            splits,
            build_tree(pifa(splits["train"].labels, sparse.csr_matrix(features, dtype=np.float32), 100), clusters),
        )


def config_of(clusters: list[int], head: HeadConfig, save_every: int, freeze_layers: int) -> Config:
    """Config of one epoch with a checkpoint at its half."""
    return Config(
        output=f"s3://{BUCKET}/scale",
        data=DataConfig(source=SourceConfig(kind="icd10cm"), max_length=32, keep_text=False),
        tree=TreeConfig(level_sizes=tuple(clusters)),
        model=ModelConfig(
            pooling="mean", shortlist_sizes=(*(64,) * (len(clusters) - 1), SHORTLIST), freeze_layers=freeze_layers
        ),
        head=head,
        optim=OptimConfig(classifier_weight_decay=0.0 if head.optimizer == "sgd" else 0.005),
        train=TrainConfig(epochs=1, batch_size=BATCH, num_workers=NUM_RANKS),
        evaluate=EvaluateConfig(batch_size=64, examples=0),
        checkpoint=CheckpointConfig(every_minutes=0, every_steps=save_every, keep_last=1),
        log=LogConfig(every_steps=1),
    )


def widened(tree: LabelTree, family: int) -> LabelTree:
    """Tree in which each label is replaced by `family` adjacent labels."""
    order = (tree.label_order[:, None].astype(np.int64) * family + np.arange(family)).ravel()
    return LabelTree(order.astype(np.int32), (*tree.offsets[:-1], tree.offsets[-1] * family))


def write(config: Config, texts: RealTexts, family: int) -> None:
    """Write the data set with families of labels, and its tree."""
    tokenizer, info = load_tokenizer(config)
    writer = DatasetWriter(data_url(config))
    rng = np.random.default_rng(1)
    examples = {}
    for split, raw in texts.splits.items():
        labels = family_members(raw.labels, family, rng)
        none = sparse.csr_matrix((len(raw.texts), 1), dtype=np.float32)
        examples[split] = Examples(tokenize(tokenizer, raw.texts, config.data.max_length), labels, none, None)
    frequency = np.bincount(examples["train"].labels.values, minlength=family * texts.num_labels)
    writer.write_labels([str(label) for label in range(len(frequency))], frequency)
    for split, rows in examples.items():
        writer.write_shard(split, rows)
    writer.commit(fingerprint="scale", config={}, tokenizer=info, num_features=1, source={})
    widened(texts.tree, family).save(tree_url(config), {})


def family_members(labels: sparse.csr_matrix, family: int, rng: np.random.Generator) -> Ragged:
    """Draw one or two labels from the family of each of a text's real labels; the first ones are the most likely."""
    chosen = [
        labels.indices.astype(np.int64) * family + np.minimum(rng.zipf(EXPONENT, len(labels.indices)) - 1, family - 1)
        for _ in range(2)
    ]
    texts = np.repeat(np.arange(cast(tuple[int, int], labels.shape)[0]), np.diff(labels.indptr))
    num_labels = cast(tuple[int, int], labels.shape)[1] * family
    keys = np.unique(np.concatenate([texts * num_labels + members for members in chosen]))
    counts = np.bincount(keys // num_labels, minlength=len(labels.indptr) - 1)
    return Ragged((keys % num_labels).astype(np.int32), np.append(0, np.cumsum(counts)).astype(np.int64))


def losses(config: Config, num_steps: int) -> tuple[float, float]:
    """Mean loss of the labels over the first and the last tenth of the steps; each step has one record."""
    records = train_records(config.output)
    assert [record["step"] for record in records] == list(range(1, num_steps + 1))
    by_step = [record["level_losses"][-1] for record in records]
    tenth = max(1, num_steps // 10)
    return statistics.mean(by_step[:tenth]), statistics.mean(by_step[-tenth:])


@torch.inference_mode()
def predict(config: Config, real_tree: LabelTree, family: int) -> float:
    """Predict the test split over random label rows on all ranks; return seconds per text."""
    with distributed() as ranks:
        tree = widened(real_tree, family)
        torch.manual_seed(0)
        model = build_model(config.model, tree, make_levels=sharded_levels(tree, Exchange(), config, trains=False))
        weight = cast(ShardedLevel, model.label_head).rows.weight
        rng = np.random.default_rng(ranks.rank)
        for start in range(0, len(weight), 65536):
            block = weight[start : start + 65536]
            block.copy_(torch.from_numpy(rng.normal(size=block.shape) / 20))
        dataset = ShardedDataset(data_url(config), "test")
        loader = EvalLoader(
            dataset, batch_size=config.evaluate.batch_size, rank=ranks.rank, world_size=ranks.world_size,
            pad_id=dataset.manifest.tokenizer.pad_id,
        )  # fmt: skip
        model.eval()
        began, seen = 0.0, 0
        for number, (_, batch) in enumerate(loader):
            if number == 1:  # the first batch compiles
                began, seen = time.perf_counter(), 0
            model(batch, predict_k=5)
            seen += batch.size
        return (time.perf_counter() - began) / (seen * ranks.world_size)


class Watch:
    """Samples the resident memory of this process and its children; `peak` in bytes, `seconds` of the `with` block."""

    def __enter__(self) -> Watch:
        self.peak, self._began, self._is_over = 0, time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._is_over.set()
        self._thread.join()
        self.seconds = time.monotonic() - self._began

    def _sample(self) -> None:
        process = psutil.Process()
        while not self._is_over.wait(0.5):
            total = 0
            for one in [process, *process.children(recursive=True)]:
                try:
                    total += one.memory_info().rss
                except psutil.NoSuchProcess:
                    continue  # the process ended after it was listed
            self.peak = max(self.peak, total)


if __name__ == "__main__":
    main()
