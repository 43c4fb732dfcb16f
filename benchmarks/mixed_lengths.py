"""Measures the gain of computing batches of mixed lengths in two parts: forward and backward pass of MiniLM-L6.

    python benchmarks/mixed_lengths.py [--threads 2] [--quick]

A batch is padded to its longest row, unless `train.bucket_by_length` groups rows of similar length. On a CPU, the
encoder therefore computes the short rows of a batch apart from the long ones. The cases are label names beside texts of
128 tokens, and short texts of mixed lengths. Batches in one and in two parts alternate, and the table shows medians.
The last line is JSON: the time in two parts for names beside texts in bf16, against the time in one part.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from support.closing_line import print_closing_line

from cxml.config import ModelConfig
from cxml.data import length_parts
from cxml.model import build_encoder
from cxml.model.encoder import TappedEncoder

GOAL = 1.3
NAMES = "names beside texts"
CASES: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    NAMES: lambda rng: np.append(rng.integers(4, 10, 17), np.full(15, 128)),
    "64 short texts": lambda rng: rng.gamma(3, 6, 64).astype(int).clip(4, 60),
    "32 short texts": lambda rng: rng.gamma(2, 6, 32).astype(int).clip(4, 60),
}


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="3 batches of one case in bf16: under 50 s on two cores")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = Table(title="Training passes of MiniLM-L6", title_justify="left")
    for heading in ("batch", "format", "padded tokens saved", "one part, ms", "two parts, ms", "speed-up"):
        table.add_column(heading, justify="right")
    closing = 0.0, 0.0
    for dtype in (torch.bfloat16,) if options.quick else (torch.float32, torch.bfloat16):
        for name in (NAMES,) if options.quick else CASES:
            whole, parts, saved = measure(dtype, CASES[name], 3 if options.quick else 11)
            cells = f"{saved:.0%}", f"{1000 * whole:.0f}", f"{1000 * parts:.0f}", f"{whole / parts:.2f}"
            table.add_row(name, str(dtype).removeprefix("torch."), *cells)
            closing = (whole, parts) if name == NAMES else closing
    Console().print(table)
    whole, parts = closing
    print_closing_line("mixed_lengths", 1000 * parts, "ms", 1000 * whole, goal=GOAL, lower_is_better=True)


def measure(dtype: torch.dtype, lengths_of: Callable, passes: int) -> tuple[float, float, float]:
    """Median seconds of a pass in one part and in two, and the mean share of padded tokens that two parts save."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    encoder = build_encoder(ModelConfig(taps=("6",)), num_levels=1).to(dtype).train()
    pairs, saved = [], []
    for _ in range(passes + 1):
        lengths = lengths_of(rng)
        width = 8 * -(-int(lengths.max()) // 8)
        parts = length_parts(lengths, width)
        saved.append(1 - sum(len(part.rows) * part.width for part in parts) / (width * len(lengths)) if parts else 0.0)
        pairs.append((timed(encoder, lengths, width, splits=False), timed(encoder, lengths, width, splits=True)))
    whole, split = (statistics.median(times) for times in zip(*pairs[1:], strict=True))
    return whole, split, statistics.mean(saved)


def timed(encoder: TappedEncoder, lengths: np.ndarray, width: int, *, splits: bool) -> float:
    """Time a forward and backward pass; return seconds."""
    encoder.splits_batches = splits
    mask = torch.from_numpy(np.arange(width) < lengths[:, None]).long()
    input_ids = torch.randint(1000, 30000, mask.shape) * mask
    began = time.perf_counter()
    (features,) = encoder(input_ids, mask)
    features.backward(torch.ones_like(features))
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
