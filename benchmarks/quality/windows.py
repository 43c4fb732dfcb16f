"""Compares the first tokens of long texts with windows over more tokens, at equal training work, on held-out texts.

    python benchmarks/quality/windows.py --config FILE [--share 0.1] [--length 1024] [--passes 2]
    python benchmarks/quality/windows.py --quick

A share of the training texts is used, and a fifth of it is held out; the test texts are not used. The number of epochs
of each way is such that all ways compute about as many tokens, padding included, as --passes epochs of the most
expensive way. Options of `python -m cxml.train` that follow hold for every run. Finished runs are not repeated. The
benchmark prints the metrics of the held-out texts, the epochs, and the CPU seconds of the whole run: tree, training,
prediction. For runs with evidence, it also prints the metrics of the cascade alone. The last line is JSON: P@5 of the
best windows against that of the best first tokens.
"""

from __future__ import annotations

import argparse
import resource
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from quality.held_out import cells, held_out, parsed_without_data, parser_of
from support.closing_line import print_closing_line
from support.configs import config_of

from cxml.data import ShardedDataset, StepRule, data_url, step_facts, window_rule
from cxml.pipeline import run
from cxml.pipeline.resolved_config import resolved

METRICS = ("P@1", "P@3", "P@5", "RP@5", "nDCG@5")
SECONDS = "cpu-seconds.txt"


def main() -> None:
    """Parse, train, print."""
    parser = parser_of(__doc__, "windows")
    parser.add_argument("--length", type=int, default=1024, help="tokens of a text with windows")
    parser.add_argument("--first", type=int, nargs="+", default=[128, 256, 512], help="tokens of a text in other runs")
    parser.add_argument("--windows", type=int, nargs="+", default=[128, 256], help="tokens of a window")
    parser.add_argument("--passes", type=int, default=2, help="epochs of the most expensive way")
    options, words = parsed_without_data(parser)
    if options.quick:
        options.length, options.first, options.windows, options.passes = 32, [8], [16], 1
    ways = {f"first {length}": ways_words(words, options, length, 0) for length in options.first}
    ways |= {f"windows of {size}": ways_words(words, options, options.length, size) for size in options.windows}
    costs = {name: tokens_of_an_epoch(each) for name, each in ways.items()}
    epochs = {name: max(1, round(options.passes * max(costs.values()) / cost)) for name, cost in costs.items()}
    found = {
        name: np.array([measure(each, epochs[name], options.folder / name, seed) for seed in range(options.seeds)])
        for name, each in ways.items()
    }
    report(found, epochs, costs)


def ways_words(words: list[str], options: argparse.Namespace, length: int, window: int) -> list[str]:
    """Return the options of the runs of one way, after preparing its data."""
    own = [*words, "--data.max-length", str(length), "--model.window", str(window)]
    return [*own, "--data.directory", held_out(own, options.folder / f"data-{length}", options.share)]


def tokens_of_an_epoch(words: list[str]) -> float:
    """Number of tokens that the encoder computes in an epoch, including padding."""
    config = resolved(config_of("windows", words))
    lengths = ShardedDataset(data_url(config), "train").lengths
    rule = StepRule(
        batch_size=config.train.batch_size, bucket_by_length=config.train.bucket_by_length,
        windows=window_rule(config),
    )  # fmt: skip
    return len(lengths) * step_facts(lengths, rule, seed=0, parts=1, num_texts=len(lengths)).width


def measure(words: list[str], epochs: int, folder: Path, seed: int) -> list[float]:
    """METRICS, those of the cascade alone, and CPU seconds of a run, which is trained if it is not finished."""
    own = ["--train.epochs", str(epochs), "--seed", str(seed), "--output", str(folder / f"seed-{seed}")]
    began = cpu_seconds()
    found = run(config_of("windows", [*words, *own]))
    file = folder / f"seed-{seed}" / SECONDS
    if not file.exists():
        file.write_text(f"{cpu_seconds() - began:.1f}")
    whole = found["levels"][-1]
    alone = found["evidence"]["cascade"] if "evidence" in found else whole
    return [*(metrics[name] for metrics in (whole, alone) for name in METRICS), float(file.read_text())]


def cpu_seconds() -> float:
    """CPU seconds of this process and of its ended child processes."""
    usages = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def report(found: dict[str, np.ndarray], epochs: dict[str, int], costs: dict[str, float]) -> None:
    """Print the table and the closing line. `found` has a row per seed, as `measure` returns it, of each way."""
    table = Table("", *METRICS, "CPU s", "epochs", "tokens of an epoch")
    num_metrics = len(METRICS)
    for name, values in found.items():
        whole, alone, seconds = np.split(values, [num_metrics, 2 * num_metrics], axis=1)
        cost = str(epochs[name]), f"{costs[name]:,.0f}"
        table.add_row(name, *cells(np.hstack([whole, seconds]), signed=False), *cost)
        if (alone != whole).any():
            table.add_row(f"{name}, cascade alone", *cells(alone, signed=False))
    Console(width=140).print(table)
    best = {
        kind: max(float(values[:, METRICS.index("P@5")].mean()) for name, values in found.items() if kind in name)
        for kind in ("first", "windows")
    }
    print_closing_line("windows", best["windows"], "P@5, %", best["first"], goal=1.0)


if __name__ == "__main__":
    main()
