"""Measures the gain of `train.compile`: forward and backward pass of MiniLM-L6 on one thread, compiled and uncompiled.

    python benchmarks/compiled_encoder.py [--quick]

All texts of a batch are padded to one length. Compiled and uncompiled passes alternate, and the table shows medians.
Compilation is timed separately, because a run compiles once per length and number format. The last line is JSON: the
compiled time of the fastest number format at 32 tokens, against its uncompiled time.
"""

from __future__ import annotations

import argparse
import copy
import statistics

import torch
from rich.console import Console
from rich.table import Table
from support.closing_line import print_closing_line
from support.encoder_alone import timed_pass

from cxml.config import ModelConfig
from cxml.model import build_encoder

TEXTS = 32
GOAL = 1.0


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 batches of 32 tokens in bf16: under 50 s on two cores")
    is_quick = parser.parse_args().quick
    torch.set_num_threads(1)
    table = Table(title=f"Training passes of MiniLM-L6 over {TEXTS} texts", title_justify="left")
    for heading in ("tokens", "format", "plain, ms", "compiled, ms", "speed-up", "to compile, s"):
        table.add_column(heading, justify="right")
    times: dict[str, tuple[float, float]] = {}
    for length in (32,) if is_quick else (32, 128):
        for dtype in (torch.bfloat16,) if is_quick else (torch.float32, torch.bfloat16):
            plain, compiled, first = measure(length, dtype, 3 if is_quick else 9)
            name = f"{length} tokens, {str(dtype).removeprefix('torch.')}"
            times[name] = plain, compiled
            cells = f"{1000 * plain:.0f}", f"{1000 * compiled:.0f}", f"{plain / compiled:.2f}", f"{first:.0f}"
            table.add_row(*name.split(" tokens, "), *cells)
    Console().print(table)
    best = min((name for name in times if name.startswith("32")), key=lambda name: min(times[name]))
    plain, compiled = times[best]
    print_closing_line(
        f"compiled_encoder, {best}", 1000 * compiled, "ms", 1000 * plain, goal=GOAL, lower_is_better=True
    )  # fmt: skip


def measure(length: int, dtype: torch.dtype, passes: int) -> tuple[float, float, float]:
    """Seconds of an uncompiled pass, of a compiled pass, and of the first compiled pass."""
    torch.manual_seed(0)
    plain = build_encoder(ModelConfig(taps=("5",)), num_levels=1).to(dtype).train()
    compiled = copy.deepcopy(plain)
    compiled.compile_layers(torch.device("cpu"), recompute=False)
    first = timed_pass(compiled, TEXTS, length)
    timed_pass(plain, TEXTS, length)
    pairs = [(timed_pass(plain, TEXTS, length), timed_pass(compiled, TEXTS, length)) for _ in range(passes)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs), first


if __name__ == "__main__":
    main()
