"""Measures prediction with a trained model against a plain PyTorch loop and linear peers, and by the number of labels.

    python benchmarks/predict.py --config configs/icd10cm.yaml
    python benchmarks/predict.py --quick

The benchmark trains the run of the config, or takes it if it is finished (options of `python -m cxml.train` may
follow). It then measures texts per second over the test split and the time of one text, with one thread and with two,
in fresh processes that alternate, for

- `cxml.Predictor`, from raw texts;
- a plain PyTorch loop over the same checkpoint, from raw texts: batches in the order of the texts, every level scored
  whole and masked by the level above, which is the simplest form of the cascade;
- omikuji (Parabel) and PECOS XR-Linear, in their own venvs, from precomputed tf-idf.

It then measures one text's time with random models of increasing numbers of labels and the same shortlists, the speed
of the encoder's number formats (not with --quick), and the effect of bf16 and int8 label rows on the metrics. The
encoder computes in the precision that is fastest on this machine; in the plain loop it computes in fp32. The last line
is JSON: texts per second against the encoder alone on the same batches, on all threads. The goal also asks that
prediction is faster than the plain loop, for one text too, and that one text's time with the most labels is at most 1.5
times its time with the fewest.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from quality.compare import QUICK, K, metrics_of, peer, peer_folder, write_inputs
from rich.console import Console
from rich.table import Table
from support.closing_line import print_closing_line
from support.configs import config_of
from support.peers import PEERS_FOLDER, linear_command
from support.small_runs import run_here
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoTokenizer

from cxml.checkpoint import load_model, model_url, read_label_rows, read_model_manifest
from cxml.config import Config, ModelConfig, PredictionPrecision
from cxml.console import set_up_logging
from cxml.data import Batch, ShardedDataset, cut, data_url, resolve_encoder
from cxml.model import build_model
from cxml.parallel import Exchange, ShardedLevel, run_workers, sharded_levels
from cxml.pipeline import run
from cxml.prediction import Predictor, RowFormat
from cxml.prediction.packed_rows import pack
from cxml.prediction.parts import Parts, read_parts
from cxml.tree import LabelTree, tree_url

BATCH = 128
SHORTLIST = 64
WIDTHS = {
    28_163: (512, 4096), 200_000: (512, 4096, 32_768), 1_000_000: (512, 8192, 131_072), 3_000_000: (512, 8192, 393_216)
}  # fmt: skip
"""Clusters of each level by number of labels; leaves have about 7 labels."""
MOST_SLOWDOWN = 1.5
GOAL = 0.85  # share of the encoder's speed
ROUNDS = 3  # whole prediction and encoder alone alternate


def main() -> None:
    """Parse, train what is missing, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small chapter of ICD-10-CM, no peers: under 50 s")
    parser.add_argument("--config", default="configs/icd10cm.yaml")
    parser.add_argument("--peers", type=Path, default=PEERS_FOLDER, help="folder of the venvs")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=2000, help="texts of the test split, for cxml and the plain loop")
    parser.add_argument("--singles", type=int, default=300, help="number of calls for one text")
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args()
    words = ["--config", options.config, "--evaluate.no-baseline", *rest]
    if options.quick:
        options.rounds, options.texts, options.singles = 1, 200, 30
        words[2:2] = [*QUICK, "--train.epochs", "1", "--output", "runs/benchmarks/predict-quick"]
    config = config_of("predict.py", words)
    if options.one:
        system, threads = options.one
        print(json.dumps(timed(config, system, int(threads), options)))
        return
    set_up_logging(is_main=True)
    run(config, run_job=run_here if options.quick else run_workers)
    commands = {name: own_command(name) for name in ("cxml", "plain PyTorch")}
    if not options.quick:
        commands |= peer_commands(config, options.peers, options.singles)
    found = measure(commands, options.rounds, (2,) if options.quick else (1, 2))
    print_speeds(found)
    if not options.quick:
        print_precisions(config, options.texts, options.rounds)
    print_formats(config)
    slowdown = print_scaling(config, options.singles, list(WIDTHS)[: 2 if options.quick else None])
    own, plain = (list(found[name].values())[-1] for name in ("cxml", "plain PyTorch"))  # on all threads
    is_ahead = own["texts_per_s"] >= plain["texts_per_s"] and own["p50"] <= plain["p50"]
    print_closing_line(
        "predict", own["texts_per_s"], "texts/s", own["encoder"], goal=GOAL,
        provided=is_ahead and slowdown <= MOST_SLOWDOWN,
    )  # fmt: skip


def own_command(system: str) -> Callable[[int], list[str]]:
    """Command of this program for one system, by the number of threads."""
    return lambda threads: [sys.executable, *sys.argv, "--one", system, str(threads)]


def peer_commands(config: Config, venvs: Path, singles: int) -> dict[str, Callable[[int], list[str]]]:
    """Commands of the linear peers, which are trained if necessary; their metrics are printed."""
    folder = write_inputs(config)
    commands: dict[str, Callable[[int], list[str]]] = {}
    for name in ("omikuji, Parabel", "PECOS XR-Linear"):
        found = peer(config, folder, name, linear_command(venvs, name), 2)
        words = [*linear_command(venvs, name, "linear_prediction.py"), str(folder), str(peer_folder(folder, name))]
        commands[name] = lambda threads, words=words: [*words, str(threads), str(K), str(singles)]
        print_metrics(name, found)
    return commands


def measure(
    commands: dict[str, Callable[[int], list[str]]], rounds: int, thread_counts: Sequence[int]
) -> dict[str, dict[int, dict[str, float]]]:
    """Measure medians over the rounds, by system and number of threads."""
    raw: dict[tuple[str, int], list[dict[str, float]]] = {}
    for _ in range(rounds):
        for threads in thread_counts:
            for name, command in commands.items():
                done = subprocess.run(command(threads), check=True, stdout=subprocess.PIPE, text=True)
                raw.setdefault((name, threads), []).append(json.loads(done.stdout.splitlines()[-1]))
    return {
        name: {
            threads: {key: statistics.median(each[key] for each in raw[name, threads]) for key in raw[name, threads][0]}
            for threads in thread_counts
        }
        for name in commands
    }


def timed(config: Config, system: str, threads: int, options: argparse.Namespace) -> dict[str, float]:
    """Measure the speed of one of our two systems in this process."""
    torch.set_num_threads(threads)
    test = ShardedDataset(data_url(config), "test")
    texts = test.texts(np.arange(min(options.texts, len(test))))
    works: dict[str, Callable[[], object]] = {}
    if system == "cxml":
        predictor = Predictor.from_checkpoint(config.output, batch_size=BATCH)
        predict: Callable[[list[str]], object] = lambda part: predictor.predict(part, k=K)  # noqa: E731
        batches_of(predictor, tuple(texts))
        works["encoder"] = lambda: encode(predictor, texts)
    else:
        predict = PlainLoop(config).predict
    predict(texts[:BATCH])  # warm-up
    works["texts_per_s"] = lambda: predict(texts)
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - began)
    speeds = {name: len(texts) / statistics.median(values) for name, values in seconds.items()}
    p50, p99 = np.percentile(single_times(predict, texts, options.singles), [50, 99])
    return {**speeds, "p50": float(p50), "p99": float(p99)}


@torch.inference_mode()
def encode(predictor: Predictor, texts: Sequence[str]) -> None:
    """Run the encoder alone on prepared batches of similar lengths."""
    for _, batch in batches_of(predictor, tuple(texts)):
        predictor.model.encoder(batch.input_ids, batch.attention_mask)


@functools.cache
def batches_of(predictor: Predictor, texts: tuple[str, ...]) -> list[tuple[np.ndarray, Batch]]:
    """Batches that a predictor makes of texts."""
    return list(predictor._cascade.batches(predictor._cascade.encode(texts)))


def single_times(predict: Callable[[list[str]], object], texts: Sequence[str], count: int) -> list[float]:
    """Seconds of each of `count` calls for one text."""
    seconds = []
    for number in range(count):
        began = time.perf_counter()
        predict([texts[number % len(texts)]])
        seconds.append(time.perf_counter() - began)
    return seconds


class PlainLoop:
    """The simplest form of the cascade: dense matrices score every whole level, masked by the level above."""

    def __init__(self, config: Config) -> None:
        """Load the checkpoint of the run."""
        self._tree = LabelTree.load(tree_url(config))
        url = model_url(config)
        model = load_model(url, self._tree, Exchange())
        model = model.predicting_with(model.encoder.predicting_in(torch.float32))
        blocks = list(read_label_rows(url, read_model_manifest(url)))
        order = torch.argsort(torch.cat([block["positions"] for block in blocks]))
        rows = [torch.cat([block[name] for block in blocks]).float()[order] for name in ("weight", "bias")]
        heads = [(head.get_parameter("weight"), head.get_parameter("bias")) for head in model.cluster_heads]
        self._heads = [*heads, (rows[0], rows[1])]
        self._parents = [torch.from_numpy(self._tree.parents(level)) for level in range(1, len(self._heads))]
        self._encoder, self._beam = model.encoder.eval(), model.shortlist_sizes
        self._is_weighted = model.scoring == "weighted"
        self._scores_all = config.head.candidates == "all"
        self._tokenizer = AutoTokenizer.from_pretrained(resolve_encoder(config.model.encoder))
        self._max_length = config.data.max_length

    @torch.inference_mode()
    def predict(self, texts: list[str]) -> np.ndarray:
        """Ids of the k best labels, int64 [N, K]."""
        best = [self._best(texts[start : start + BATCH]) for start in range(0, len(texts), BATCH)]
        return self._tree.label_order[torch.cat(best).numpy()].astype(np.int64)

    def _best(self, texts: list[str]) -> Tensor:
        tokens = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self._max_length, return_tensors="pt"
        )  # fmt: skip
        features = self._encoder(tokens["input_ids"], tokens["attention_mask"])
        if self._scores_all:
            weight, bias = self._heads[-1]
            return F.linear(features[-1], weight, bias).topk(K).indices
        allowed = scores = above = None
        for level, (weight, bias) in enumerate(self._heads):
            logits = F.linear(features[level], weight, bias)
            if level:
                parents = self._parents[level - 1]
                logits = logits.masked_fill(~cast(Tensor, allowed)[:, parents], -torch.inf)
            scores = logits.sigmoid()
            if level and self._is_weighted:
                scores = scores * cast(Tensor, above)[:, parents]
            if level < len(self._beam):
                kept = logits.topk(min(self._beam[level], logits.shape[1])).indices
                allowed = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, kept, value=True)
                allowed &= logits > -torch.inf
                above = logits.sigmoid()
        return cast(Tensor, scores).topk(K).indices


def print_speeds(found: dict[str, dict[int, dict[str, float]]]) -> None:
    """Print texts per second and the time of one text."""
    table = Table("", "threads", "texts/s", "one text, ms: p50", "p99", title="Speed", title_justify="left")
    for name, results in found.items():
        for threads, one in results.items():
            table.add_row(
                name, str(threads), f"{one['texts_per_s']:,.0f}", f"{1000 * one['p50']:.2f}", f"{1000 * one['p99']:.2f}"
            )
    Console(width=120).print(table)


def print_precisions(config: Config, count: int, rounds: int) -> None:
    """Print the speed and the labels of each number format of the encoder, which alternate, on one thread."""
    torch.set_num_threads(1)
    test = ShardedDataset(data_url(config), "test")
    texts = test.texts(np.arange(min(count, len(test))))
    formats: tuple[PredictionPrecision, ...] = ("fp32", "bf16", "int8")
    predictors = {
        each: Predictor.from_checkpoint(config.output, precision=each, batch_size=BATCH, device="cpu")
        for each in formats
    }
    labels = {each: predictor.predict(texts, K).labels for each, predictor in predictors.items()}
    seconds: dict[str, list[float]] = {each: [] for each in formats}
    for _ in range(rounds):
        for each, predictor in predictors.items():
            began = time.process_time()
            predictor.predict(texts, K)
            seconds[each].append(time.process_time() - began)
    table = Table("encoder", "texts per CPU second", "same label at the same rank, %", "same first label, %")
    for each in formats:
        same = labels[each] == labels["fp32"]
        speed = len(texts) / statistics.median(seconds[each])
        table.add_row(each, f"{speed:.0f}", f"{100 * same.mean():.2f}", f"{100 * same[:, 0].mean():.2f}")
    Console(width=120).print(table)


def print_formats(config: Config) -> None:
    """Print metrics of the test split for each row format, and how often the plain loop agrees."""
    test = ShardedDataset(data_url(config), "test")
    tokens = test.column("input_ids")
    formats: tuple[RowFormat, ...] = ("fp32", "bf16", "int8")
    predictors = {rows: Predictor.from_checkpoint(config.output, rows=rows, batch_size=BATCH) for rows in formats}
    for rows, predictor in predictors.items():
        size = predictor.parts.rows.num_bytes / 1e6
        labels = predictor.predict_tokens(tokens, K).labels
        print_metrics(f"cxml, {rows} rows, {size:.1f} MB", metrics_of(config, labels))
    some = np.arange(min(2000, len(test)))
    labels = predictors["fp32"].predict(test.texts(some), K).labels
    same = np.mean(PlainLoop(config).predict(test.texts(some)) == labels)
    print(f"The plain loop predicts the same label at {100 * same:.2f} % of the ranks.")


def print_metrics(name: str, metrics: dict[str, Any]) -> None:
    """Print P@k and PSP@5 in percent."""
    print(f"{name}: " + ", ".join(f"{metric} {metrics[metric]:.2f}" for metric in ("P@1", "P@3", "P@5", "PSP@5")))


def print_scaling(config: Config, singles: int, sizes: Sequence[int]) -> float:
    """Print one text's time with random models; return the median with the most labels over that with the fewest."""
    texts = ShardedDataset(data_url(config), "test").texts(np.arange(singles))
    table = Table("labels", "one text, ms: p50", "p99", title="More labels, same shortlists", title_justify="left")
    of_run = read_parts(config.output, Exchange(is_alone=True))
    predictors = {size: random_predictor(of_run, size) for size in sizes}
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    for predictor in predictors.values():
        predictor.predict(texts[:3], K)
    for start in range(0, singles, 10):  # the sizes alternate
        for size, predictor in predictors.items():
            part = texts[start : start + 10]
            seconds[size] += single_times(lambda one, predictor=predictor: predictor.predict(one, K), part, len(part))
    for size in sizes:
        p50, p99 = np.percentile(seconds[size], [50, 99])
        table.add_row(f"{size:,}", f"{1000 * p50:.2f}", f"{1000 * p99:.2f}")
    Console(width=120).print(table)
    return statistics.median(seconds[sizes[-1]]) / statistics.median(seconds[sizes[0]])


def random_predictor(of_run: Parts, num_labels: int) -> Predictor:
    """Predictor like that of the run, but over a balanced tree with random bf16 label rows."""
    config = of_run.config
    sizes = (*WIDTHS[num_labels], num_labels)
    tree = LabelTree(
        np.arange(num_labels, dtype=np.int32),
        tuple(cut(below, above).astype(np.int64) for above, below in itertools.pairwise(sizes)),
    )
    model_config = ModelConfig(
        encoder=config.model.encoder, pooling=config.model.pooling, shortlist_sizes=(SHORTLIST,) * (len(sizes) - 1)
    )
    head = dataclasses.replace(config.head, weights="bf16", candidates="shortlist")
    config = dataclasses.replace(
        config, tree=dataclasses.replace(config.tree, level_sizes=sizes[:-1]), model=model_config, head=head
    )
    torch.manual_seed(0)
    made = sharded_levels(tree, Exchange(is_alone=True), config, trains=False)
    model = build_model(model_config, tree, make_levels=made)
    rows = cast(ShardedLevel, model.label_head)
    for start in range(0, num_labels, 65536):
        positions = torch.arange(start, min(start + 65536, num_labels))
        rows.import_rows(
            positions, torch.randn(len(positions), model.encoder.feature_sizes[-1]) / 20, torch.zeros(len(positions))
        )
    names = [str(label) for label in range(num_labels)]
    parts = dataclasses.replace(
        of_run, model=model, tree=tree, layout=rows.layout, rows=pack(rows), names=names, config=config
    )
    return Predictor(parts, batch_size=BATCH)


if __name__ == "__main__":
    main()
