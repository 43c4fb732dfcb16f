"""Measures the training step with sharded levels on one real card against its encoder and the memory's bandwidth.

    benchmarks/gpu/levels.sh                               # runs the parity tests first
    python benchmarks/gpu/levels.py [--rehearse] [--labels 2812281] [--texts 64 256 1024] [--steps 12]

The model has the shape of BERT-base with random weights in bf16, 128 tokens per text, and Amazon-3M's label tree. The
label rows are bf16 with one second moment per row. The engine is the one for a single process.

1. Steps of a small model in fp32 on the card are compared with the same steps on the CPU. Their losses must differ by
   less than 1 %.
2. For each number of texts, a whole step and a step of its encoder alone (forward, backward, update) are timed
   alternately, and medians over the rounds are shown. Goal from 256 texts on: the whole step reaches at least 0.8 of
   the encoder's texts per second. The table also shows how often a step makes the host wait
   (torch.cuda.set_sync_debug_mode; goal 0) and the card's peak memory.
3. The kernels that score and update label rows are timed on texts whose leaves are drawn uniformly. Their time is
   compared with the time in which the card's memory moves the bytes that they must read and write. Goal: at most twice
   that time.

Every text repeats one random token. On texts of many tokens an encoder with random weights computes nearly equal
features, so all texts would get the same shortlist. The benchmark prints one line of JSON per goal.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import without_unused  # noqa: F401  # isort: skip - before cxml

os.environ.pop("TRITON_INTERPRET", None)  # the interpreter is slow on the fake accelerator and wrong on a real one

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from support.closing_line import print_closing_line
from support.encoder_alone import EncoderAlone
from transformers import BertConfig

from cxml.accelerators import device_name, device_of, synchronize
from cxml.config import Config, DataConfig, HeadConfig, ModelConfig, SourceConfig, TrainConfig, TreeConfig
from cxml.data import Batch, BatchLimits
from cxml.model import CascadeXML, build_model
from cxml.model.encoder import build_encoder
from cxml.optim import RowSchedule, RowState, RowTensors, Shortlists
from cxml.parallel import (
    Exchange,
    Ranks,
    RowLayout,
    ShardedLevel,
    build_engine,
    kernels_for,
    sharded_clusters,
    sharded_levels,
)
from cxml.parallel.routing import dispatch_to_owners
from cxml.parallel.row_layout import Shard
from cxml.training import train_step
from cxml.tree import LabelTree, plan_splits

TRUE = 5  # true labels of a text
SHARE_OF_ENCODER = 0.8
OF_FLOOR = 0.5
MOST_DIFFERENCE = 0.01


@dataclass(frozen=True)
class Sizes:
    """Sizes of the measured training.

    Attributes:
        labels: number of labels L.
        level_sizes: clusters of each level.
        shortlist_sizes: number of these that each level selects for the next.
        taps: tapped layers of the encoder.
        texts: numbers of texts of a step that are measured.
        tokens: tokens of a text.
        steps: steps that are timed together.
        rounds: number of rounds, in which encoder alone and whole step alternate.
        encoder: shape of the encoder.
        shard_from: see `HeadConfig`.
    """

    labels: int
    level_sizes: tuple[int, ...]
    shortlist_sizes: tuple[int, ...]
    taps: tuple[str, ...]
    texts: tuple[int, ...]
    tokens: int
    steps: int
    rounds: int
    encoder: BertConfig
    shard_from: int

    def config(self, *, on_card: bool = True, is_bf16: bool = True) -> Config:
        """Config of a run."""
        dropouts = (0.0,) * (len(self.level_sizes) + 1)
        return Config(
            output="unused",
            data=DataConfig(source=SourceConfig(kind="icd10cm")),
            tree=TreeConfig(level_sizes=self.level_sizes),
            model=ModelConfig(
                pooling="mean", taps=self.taps, shortlist_sizes=self.shortlist_sizes, dropouts=dropouts,
                projection_dropout=0.0,
            ),
            head=HeadConfig(
                weights="bf16" if is_bf16 else "fp32", second_moment="row", shard_from=self.shard_from,
                rows_in="device" if on_card else "host",
            ),
            train=TrainConfig(precision="bf16" if is_bf16 else "fp32", gradient_clipping=1.0),
        )  # fmt: skip

    def tree(self) -> LabelTree:
        """Tree whose nodes have numbers of children that differ by at most one."""
        return LabelTree(np.arange(self.labels, dtype=np.int32), plan_splits(self.labels, self.level_sizes).offsets)


SMALL = Sizes(
    labels=4_000, level_sizes=(16, 128, 512), shortlist_sizes=(8, 24, 40), taps=("1", "2", "3", "4"), texts=(8, 16),
    tokens=12, steps=2, rounds=2, shard_from=256,
    encoder=BertConfig(
        hidden_size=64, num_hidden_layers=4, num_attention_heads=4, intermediate_size=128, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    ),
)  # fmt: skip


def main() -> None:
    """Parse, check, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on a fake accelerator; no times")
    parser.add_argument("--labels", type=int, default=2_812_281)
    parser.add_argument("--texts", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--steps", type=int, default=12, help="steps of a round")
    options = parser.parse_args()
    torch.manual_seed(0)
    if options.rehearse:
        from support.fake_accelerator import fake_accelerator  # noqa: PLC0415 - registers a device

        torch.set_num_threads(1)
        with fake_accelerator() as device:
            measure(SMALL, device)
        return
    sizes = Sizes(
        labels=options.labels, level_sizes=(4096, 32768, 262144), shortlist_sizes=(128, 256, 400),
        taps=("5+6", "8", "10", "12"), texts=tuple(options.texts), tokens=128, steps=options.steps, rounds=3,
        encoder=BertConfig(), shard_from=65536,
    )  # fmt: skip
    measure(sizes, device_of(0))


def measure(sizes: Sizes, device: torch.device) -> None:
    """Measure all parts and print the results."""
    print(f"{device_name(device)}, PyTorch {torch.__version__}, {sizes.labels:,} labels, tree {sizes.level_sizes}")
    check_losses(device)
    table = Table(title="Whole step and its encoder alone", title_justify="left")
    for heading in ("texts", "step, ms", "encoder, ms", "texts/s", "of encoder", "waits", "peak, GiB"):
        table.add_column(heading, justify="right")
    goals = []
    for num_texts in sizes.texts:
        try:
            step, encoder, waits, peak = compare(sizes, num_texts, device)
        except torch.OutOfMemoryError as error:
            print(f"{num_texts:,} texts: {error}")
            continue
        table.add_row(
            f"{num_texts:,}", f"{step * 1e3:.2f}", f"{encoder * 1e3:.2f}", f"{num_texts / step:,.0f}",
            f"{encoder / step:.3f}", str(waits), f"{peak:.1f}",
        )  # fmt: skip
        goals.append((num_texts, step, encoder, waits))
    Console(width=120).print(table)
    kernels = [compare_kernels(sizes, num_texts, device) for num_texts in sizes.texts]
    for num_texts, step, encoder, waits in goals:
        print_closing_line(
            f"levels-step-{num_texts}-texts", num_texts / step, "texts/s", num_texts / encoder,
            goal=SHARE_OF_ENCODER if num_texts >= 256 else 0.0, provided=not waits,
        )  # fmt: skip
    for num_texts, seconds, floor in kernels:
        print_closing_line(
            f"levels-kernels-{num_texts}-texts", seconds * 1e3, "ms", floor * 1e3, goal=OF_FLOOR, lower_is_better=True
        )


def check_losses(device: torch.device) -> None:
    """Exit if the step computes wrong losses on this device."""
    host = torch.device("cpu")
    found = {}
    for place in (host, device):
        config = SMALL.config(on_card=place != host, is_bf16=False)
        torch.manual_seed(0)
        train = whole_step(SMALL, config, place)
        found[place] = torch.stack([train(16, seed).cpu() for seed in range(6)])
    difference = ((found[device] - found[host]).abs() / found[host]).max().item()
    print(f"losses of a small model in fp32: largest relative difference from the CPU's is {difference:.2e}")
    if not difference <= MOST_DIFFERENCE:
        raise SystemExit(f"over {MOST_DIFFERENCE}: the step is wrong on this device, so it is not measured")


def compare(sizes: Sizes, num_texts: int, device: torch.device) -> tuple[float, float, int, float]:
    """Seconds of a step and of its encoder, waits of a step, and the card's peak memory in GiB."""
    clear(device)
    config = sizes.config()
    steps = {"encoder": encoder_step(sizes, config, device), "step": whole_step(sizes, config, device)}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for take in steps.values():
        for seed in range(3):  # compiles kernels and allocates memory
            take(num_texts, seed)
    for _ in range(sizes.rounds):
        for name, take in steps.items():
            seconds[name].append(time_steps(lambda seed, take=take: take(num_texts, seed), sizes.steps, device))
    with counted_waits(device) as waits:
        steps["step"](num_texts, 0)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0
    return statistics.median(seconds["step"]), statistics.median(seconds["encoder"]), len(waits), peak


def clear(device: torch.device) -> None:
    """Release the memory of the last case."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def time_steps(take: Callable[[int], object], count: int, device: torch.device) -> float:
    """Seconds per step over `count` consecutive steps; the host may run ahead."""
    synchronize(device)
    began = time.perf_counter()
    for seed in range(count):
        take(seed)
    synchronize(device)
    return (time.perf_counter() - began) / count


@contextmanager
def counted_waits(device: torch.device) -> Iterator[list[warnings.WarningMessage]]:
    """Yield a list of the calls within this context that made the host wait for a CUDA card."""
    if device.type != "cuda":
        yield []
        return
    synchronize(device)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found[:] = [one for one in found if "synchroniz" in str(one.message)]
    for one in found:
        print(f"waits: {one.filename}:{one.lineno}: {one.message}")


def whole_step(sizes: Sizes, config: Config, device: torch.device) -> Callable[[int, int], torch.Tensor]:
    """Return a function that takes a training step, given a number of texts and a seed, and returns its losses."""
    tree = sizes.tree()
    ranks = alone_on(device)
    levels = sharded_levels(tree, Exchange(is_alone=True), config)
    model = build_model(config.model, tree, sizes.encoder, levels)
    spread_choices(model, tree, config)
    engine = build_engine(model, config.train, config.optim, ranks)
    schedule = cast(ShardedLevel, model.label_head).schedule
    batches = kept_batches(sizes)
    count = 0

    def take(num_texts: int, seed: int) -> torch.Tensor:
        nonlocal count
        count += 1
        schedule.begin_step(1e-3, 0.9)
        return train_step(engine, [batches(num_texts, seed)], ranks, count)

    engine.train()
    return take


def alone_on(device: torch.device) -> Ranks:
    """Ranks of this process alone."""
    return Ranks(rank=0, world_size=1, local_rank=0, device=device)


def spread_choices(model: CascadeXML, tree: LabelTree, config: Config) -> None:
    """Give sharded clusters random rows as after training; with zero rows every text would want the same clusters."""
    for level, number in zip(
        cast(list[ShardedLevel], model.cluster_levels), sharded_clusters(tree, config.head), strict=True
    ):
        size = tree.level_sizes[number]
        rows = torch.randn(size, model.encoder.hidden_size) * 0.05
        level.import_rows(torch.arange(size), rows, torch.full((size,), -4.0))


def encoder_step(sizes: Sizes, config: Config, device: torch.device) -> Callable[[int, int], object]:
    """Return a function that takes a training step of the encoder alone, given a number of texts and a seed."""
    encoder = build_encoder(config.model, config.num_levels, sizes.encoder)
    engine = build_engine(EncoderAlone(encoder), config.train, config.optim, alone_on(device))
    batches = kept_batches(sizes)

    def take(num_texts: int, seed: int) -> None:
        batch = batches(num_texts, seed).to(device)
        engine.backward(engine(batch.input_ids, batch.attention_mask))
        engine.step()

    engine.train()
    return take


def kept_batches(sizes: Sizes) -> Callable[[int, int], Batch]:
    """Return a function that caches batches by number of texts and seed, so that steps exclude their creation."""
    kept: dict[tuple[int, int], Batch] = {}

    def batch(num_texts: int, seed: int) -> Batch:
        if (num_texts, seed) not in kept:
            kept[num_texts, seed] = random_batch(sizes, num_texts, seed)
        return kept[num_texts, seed]

    return batch


def random_batch(sizes: Sizes, num_texts: int, seed: int) -> Batch:
    """Batch of texts that repeat one token each, with random labels."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1000, 30000, num_texts)
    labels = np.sort(rng.integers(0, sizes.labels // TRUE, (num_texts, TRUE)) * TRUE + np.arange(TRUE), axis=1)
    return Batch(
        input_ids=torch.from_numpy(np.repeat(tokens[:, None], sizes.tokens, axis=1)),
        attention_mask=torch.ones(num_texts, sizes.tokens, dtype=torch.int64),
        label_values=torch.from_numpy(labels.ravel()),
        label_offsets=torch.arange(0, TRUE * num_texts + 1, TRUE),
        lengths=np.full(num_texts, sizes.tokens),
        global_size=num_texts,
        limits=BatchLimits(num_texts, TRUE * num_texts, TRUE),
    )


def compare_kernels(sizes: Sizes, num_texts: int, device: torch.device) -> tuple[int, float, float]:
    """Number of texts, seconds to score and update the label rows, and the seconds that the memory traffic needs."""
    clear(device)
    head, tree = sizes.config().head, sizes.tree()
    layout = RowLayout.round_robin(tree.offsets[-1], 0, 1)
    rows, shard = RowTensors.of(fresh_rows(sizes, head, layout.num_rows), device), Shard.of(layout, device)
    schedule = RowSchedule(
        decay=0.005, beta2=0.999, epsilon=1e-8, clip_row_norm=0.0,
        log_decay=torch.zeros(1024, dtype=torch.float64, device=device),
    )  # fmt: skip
    candidates, num_touched = even_shortlists(sizes, num_texts, tree, shard, device)
    kernels = kernels_for(head, on_device=True)
    factor, is_finite = torch.ones((), device=device), torch.tensor(True).to(device)

    def take(_: int) -> None:
        schedule.begin_step(1e-3, 0.9)
        kernels.loss(rows, shard.leaf_rows, candidates, schedule)
        kernels.update(rows, shard.leaf_rows, candidates, schedule, 1 / num_texts, factor=factor, is_finite=is_finite)

    for seed in range(3):
        take(seed)
    seconds = statistics.median(time_steps(take, sizes.steps, device) for _ in range(sizes.rounds))
    one = fresh_rows(sizes, head, 1)
    moved = num_touched * (one.weight.nbytes + 2 * one.num_bytes)  # read by the loss; read, written by the update
    floor = moved / memory_speed(device)
    print(
        f"{num_texts:,} texts, {num_touched:,} rows: {seconds * 1e3:.2f} ms for loss and update; memory moves their "
        f"{moved / 2**30:.2f} GiB in {floor * 1e3:.2f} ms"
    )
    return num_texts, seconds, floor


def fresh_rows(sizes: Sizes, head: HeadConfig, count: int) -> RowState:
    """Make `count` rows in the format of a config."""
    return RowState.zeros(
        count, sizes.encoder.hidden_size,
        optimizer=head.optimizer, weights=head.weights, second_moment=head.second_moment,
    )  # fmt: skip


def even_shortlists(
    sizes: Sizes, num_texts: int, tree: LabelTree, shard: Shard, device: torch.device
) -> tuple[Shortlists, int]:
    """Random texts that want leaves drawn uniformly from all, and the number of rows of these leaves."""
    rng, wanted = np.random.default_rng(0), sizes.shortlist_sizes[-1]
    leaf_sizes = np.diff(tree.offsets[-1])
    nodes = np.stack([rng.choice(len(leaf_sizes), wanted, replace=False) for _ in range(num_texts)])
    labels = random_batch(sizes, num_texts, 0).label_values
    keys = labels + torch.arange(num_texts).repeat_interleave(TRUE) * sizes.labels
    features = torch.randn(num_texts, sizes.encoder.hidden_size, dtype=torch.bfloat16)
    dispatch = dispatch_to_owners(
        Exchange(is_alone=True), shard, features.to(device), torch.from_numpy(nodes).to(device),
        positive_keys=keys.to(device), most_texts=num_texts,
    )  # fmt: skip
    return dispatch.candidates, int(leaf_sizes[np.unique(nodes)].sum())


def memory_speed(device: torch.device) -> float:
    """Bytes read and written per second by a copy within the device."""
    size = 2**30 if device.type == "cuda" else 2**20
    source, target = torch.ones(size, dtype=torch.uint8).to(device), torch.zeros(size, dtype=torch.uint8).to(device)
    target.copy_(source)
    return 2 * size / statistics.median(time_steps(lambda _: target.copy_(source), 4, device) for _ in range(5))


if __name__ == "__main__":
    main()
