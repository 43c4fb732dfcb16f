"""Compares the label rows with ZeRO-1, ZeRO-3 and a dense head: time, memory and traffic of a training step.

    python benchmarks/head.py [--quick] [--labels 100000 400000 1000000 3000000] [--heads rows zero3 zero1 dense full]

The benchmark runs two processes with 384 weights per label. Each process has 16 texts that want 1,000 labels each,
drawn uniformly from all labels. At each number of labels all heads that fit into the memory are built. Their steps
alternate, so that other load on the machine affects all heads alike. Times are medians; CPU times are those of the
first process. Memory is the growth of a process's resident set by building a head and taking one step. Bytes are what
the network interface sent in a step, for all processes together; the last column shows the bytes that the rows count
themselves.

The last table compares a whole training step of CascadeXML on MiniLM-L6 (16 texts of 32 tokens per process) with
forward, backward and update of its encoder alone, again alternately. The benchmark prints one line of JSON per goal.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import psutil
import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from support.closing_line import print_closing_line
from support.encoder_alone import EncoderAlone
from support.label_heads import Problem, Rows, build, bytes_needed

from cxml.config import Config, DataConfig, ModelConfig, SourceConfig, TrainConfig, TreeConfig
from cxml.console import set_up_logging
from cxml.data import Batch, BatchLimits
from cxml.model import build_model
from cxml.model.encoder import build_encoder
from cxml.parallel import Exchange, Ranks, ShardedLevel, build_engine, distributed, run_workers, sharded_levels
from cxml.training import train_step
from cxml.tree import LabelTree

HEADS = ("rows", "zero3", "zero1", "dense")
MORE_HEADS = ("full",)
NUM_RANKS, TEXTS, TOKENS = 2, 16, 32
GOAL = 40.0  # speed-up over ZeRO-3
MOST_GROWTH = 1.2  # of a step's time, from the fewest labels to the most
MOST_OF_ENCODER = 1.25  # a whole step's time over that of its encoder alone


@dataclass
class Figures:
    """Measurements of one head at one number of labels.

    Attributes:
        seconds: time of each step.
        cpu: CPU seconds of the first rank in each step.
        sent: bytes that all ranks sent in each step.
        counted: bytes that the first rank sent in a step, as the rows count them.
        resident: bytes by which the first rank's memory grew.
    """

    resident: int = 0
    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    counted: int = 0


@dataclass(frozen=True)
class Options:
    """Options of the command line; see --help."""

    labels: list[int]
    heads: list[str]
    steps: int
    whole_step_labels: int
    clusters: list[int]
    memory: int


def main() -> None:
    """Parse, measure, print."""
    options = parse()
    set_up_logging(is_main=True)
    heads, whole = run_workers(measure, (options,), NUM_RANKS)
    report(options, heads, whole)


def parse() -> Options:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="rows and zero3, few steps: under 50 s on two cores")
    parser.add_argument("--labels", type=int, nargs="+", help="numbers of labels, in rising order")
    parser.add_argument("--heads", nargs="+", choices=HEADS + MORE_HEADS, help="what to measure")
    parser.add_argument("--steps", type=int, help="timed steps of the rows; slower heads take fewer")
    parser.add_argument("--whole-step-labels", type=int, help="labels of the whole training step; 0 skips it")
    parser.add_argument("--clusters", type=int, nargs="+", default=[512, 8192], help="clusters per level of its tree")
    parser.add_argument("--memory", type=float, help="GiB for all heads; default: free memory")
    given = parser.parse_args()
    quick = given.quick
    memory = given.memory * 2**30 if given.memory else psutil.virtual_memory().available * 0.9
    return Options(
        labels=given.labels or ([100_000, 400_000] if quick else [100_000, 400_000, 1_000_000, 3_000_000]),
        heads=given.heads or (["rows", "zero3"] if quick else list(HEADS)),
        steps=given.steps or (5 if quick else 30),
        whole_step_labels=(100_000 if quick else 1_000_000)
        if given.whole_step_labels is None
        else given.whole_step_labels,
        clusters=given.clusters,
        memory=int(memory),
    )


def measure(options: Options) -> tuple[dict[tuple[int, str], Figures], dict[str, list[float]]]:
    """Measure the heads and the whole step; runs in each process of the group."""
    with distributed(threads=1) as ranks:
        heads = {}
        for num_labels in options.labels:
            heads |= measure_heads(options, Problem(num_labels, TEXTS), ranks)
            gc.collect()
        return heads, measure_whole_step(options, ranks) if options.whole_step_labels else {}


def measure_heads(options: Options, problem: Problem, ranks: Ranks) -> dict[tuple[int, str], Figures]:
    """Measure the heads that fit into the memory, alternately; slow heads take fewer steps."""
    contenders, figures, left = {}, {}, options.memory
    for name in options.heads:
        needed = bytes_needed(name, problem.num_labels, ranks.world_size)
        if needed > left:
            continue
        left -= needed
        before = psutil.Process().memory_info().rss
        contenders[name] = build(name, problem, ranks)
        contenders[name].step(0)
        figures[name] = Figures(psutil.Process().memory_info().rss - before)
        if name == "rows":
            contenders[name].step(1)  # the first steps touch memory for the first time
    for step in range(options.steps):
        for name, contender in contenders.items():
            if name == "rows" or step % (options.steps // 4) == 0:
                time_step(contender.step, 100 * step + 7, figures[name])
    if isinstance(rows := contenders.get("rows"), Rows):
        before = rows.exchange.sent
        rows.step(5)
        figures["rows"].counted = rows.exchange.sent - before
    return {(problem.num_labels, name): figure for name, figure in figures.items()}


def time_step(step: Callable[[int], None], seed: int, figures: Figures) -> None:
    """Time one step of all ranks."""
    dist.barrier()
    sent, began, cpu = bytes_sent(), time.perf_counter(), time.process_time()
    step(seed)
    figures.cpu.append(time.process_time() - cpu)
    dist.barrier()
    figures.seconds.append(time.perf_counter() - began)
    figures.sent.append(bytes_sent() - sent)


def bytes_sent() -> int:
    """Bytes that this machine's network interfaces have sent, including loopback."""
    return sum(interface.bytes_sent for interface in psutil.net_io_counters(pernic=True).values())


def measure_whole_step(options: Options, ranks: Ranks) -> dict[str, list[float]]:
    """Seconds of whole training steps and of the encoder alone on the same batches, alternately."""
    config = whole_step_config(options, ranks)
    tree = even_tree(options.whole_step_labels, config.tree.sizes)
    torch.manual_seed(0)
    model = build_model(config.model, tree, make_levels=sharded_levels(tree, Exchange(), config))
    engine = build_engine(model, config.train, config.optim, ranks)
    encoder = build_engine(
        EncoderAlone(build_encoder(config.model, config.num_levels)), config.train, config.optim, ranks
    )
    rows = cast(ShardedLevel, model.label_head).schedule
    figures = {"step": Figures(), "encoder": Figures()}

    def whole(seed: int) -> None:
        rows.begin_step(1e-3, 0.9)
        train_step(engine, [random_batch(seed + ranks.rank, options.whole_step_labels, ranks)], ranks)

    def encoder_alone(seed: int) -> None:
        batch = random_batch(seed + ranks.rank, options.whole_step_labels, ranks)
        encoder.backward(encoder(batch.input_ids, batch.attention_mask))
        encoder.step()

    for step in range(options.steps // 2 + 1):
        for name, take in (("encoder", encoder_alone), ("step", whole)):
            time_step(take, 100 * step, figures[name])
    return {name: figure.seconds[1:] for name, figure in figures.items()}


def whole_step_config(options: Options, ranks: Ranks) -> Config:
    """Config of MiniLM over a tree whose shortlists have about a thousand labels."""
    per_leaf = options.whole_step_labels / options.clusters[-1]
    shortlist_sizes = [64] * (len(options.clusters) - 1) + [max(1, round(1000 / per_leaf))]
    return Config(
        output="unused",
        data=DataConfig(source=SourceConfig(kind="icd10cm")),
        tree=TreeConfig(level_sizes=tuple(options.clusters)),
        model=ModelConfig(pooling="mean", shortlist_sizes=tuple(shortlist_sizes)),
        train=TrainConfig(batch_size=TEXTS * ranks.world_size, num_workers=ranks.world_size),
    )


def even_tree(num_labels: int, level_sizes: tuple[int, ...]) -> LabelTree:
    """Tree whose nodes have numbers of children that differ by at most one."""
    sizes = [*level_sizes, num_labels]
    offsets = [np.linspace(0, below, above + 1).astype(np.int64) for above, below in itertools.pairwise(sizes)]
    return LabelTree(np.arange(num_labels, dtype=np.int32), tuple(offsets))


def random_batch(seed: int, num_labels: int, ranks: Ranks) -> Batch:
    """Batch of texts of random tokens, each with five random labels."""
    rng = np.random.default_rng(seed)
    labels = np.sort(np.stack([rng.choice(num_labels, 5, replace=False) for _ in range(TEXTS)]), axis=1)
    return Batch(
        input_ids=torch.from_numpy(rng.integers(1000, 30000, (TEXTS, TOKENS))),
        attention_mask=torch.ones(TEXTS, TOKENS, dtype=torch.int64),
        label_values=torch.from_numpy(labels.ravel()),
        label_offsets=torch.arange(0, 5 * TEXTS + 1, 5),
        lengths=np.full(TEXTS, TOKENS),
        global_size=TEXTS * ranks.world_size,
        limits=BatchLimits(TEXTS, 5 * TEXTS, 5),
    )


def report(options: Options, heads: dict[tuple[int, str], Figures], whole: dict[str, list[float]]) -> None:
    """Print the tables and the lines of JSON."""
    table = Table(title=f"A training step of the head, {NUM_RANKS} processes", title_justify="left")
    for heading in ("labels", "head", "ms", "times rows", "CPU ms", "MiB a process", "MB sent", "counted"):
        table.add_column(heading, justify="right")
    medians = {key: statistics.median(figure.seconds) for key, figure in heads.items()}
    for (num_labels, name), figure in heads.items():
        seconds = medians[num_labels, name]
        rows = medians.get((num_labels, "rows"), seconds)
        table.add_row(
            f"{num_labels:,}", name, f"{seconds * 1000:.0f}", f"{seconds / rows:.1f}",
            f"{statistics.median(figure.cpu) * 1000:.0f}",
            f"{figure.resident / 2**20:,.0f}",
            f"{statistics.median(figure.sent) / 1e6:.2f}",
            f"{figure.counted * NUM_RANKS / 1e6:.2f}" if figure.counted else "",
        )  # fmt: skip
    Console().print(table)
    print_goals(options, medians, whole)


def print_goals(options: Options, medians: dict[tuple[int, str], float], whole: dict[str, list[float]]) -> None:
    """Print a line of JSON for each goal that was measured."""
    if whole:
        print_whole_step(options, whole)
    fewest, most = min(options.labels), max(options.labels)
    if fewest < most and {(fewest, "rows"), (most, "rows")} <= medians.keys():
        few, many = medians[fewest, "rows"], medians[most, "rows"]
        print_limit(f"head-{most}-to-{fewest}-labels", many, MOST_GROWTH * few)
    compared = [num_labels for num_labels, name in medians if name == "zero3" and num_labels <= 400_000]
    if compared:
        rows, zero3 = medians[compared[-1], "rows"], medians[compared[-1], "zero3"]
        print_closing_line(f"head-{compared[-1]}-labels", rows, "s", zero3, goal=GOAL, lower_is_better=True)


def print_whole_step(options: Options, whole: dict[str, list[float]]) -> None:
    """Print the time of the whole training step against that of its encoder alone."""
    step, encoder = (statistics.median(whole[name]) for name in ("step", "encoder"))
    print(
        f"Whole training step at {options.whole_step_labels:,} labels, tree {options.clusters}: {step * 1000:.0f} ms; "
        f"its encoder alone: {encoder * 1000:.0f} ms; ratio {step / encoder:.2f}"
    )
    print_limit("head-whole-step", step, MOST_OF_ENCODER * encoder)


def print_limit(name: str, seconds: float, most: float) -> None:
    """Print a closing line for a figure with an upper limit in seconds."""
    print_closing_line(name, seconds, "s", most, goal=1.0, lower_is_better=True)


if __name__ == "__main__":
    main()
