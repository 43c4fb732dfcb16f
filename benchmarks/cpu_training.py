"""Measures dropout and attention for training on CPUs: passes of MiniLM-L6 on one thread, with PyTorch's and cxml's.

    python benchmarks/cpu_training.py [--quick]

A pass is forward and backward, without padding, with the encoder's own dropout. Both ways alternate, and the table
shows medians of CPU time. The last line is JSON: bf16 passes over texts of 128 tokens against those with PyTorch's
operations.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import nullcontext
from unittest import mock

import torch
from rich.console import Console
from rich.table import Table
from support.closing_line import print_closing_line
from support.encoder_alone import timed_pass

from cxml.config import ModelConfig
from cxml.model import build_encoder
from cxml.model import encoder as encoder_module
from cxml.model.encoder import TappedEncoder

TOKENS = 4096
SHOWN = (torch.bfloat16, 128)
GOAL = 1.5


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="3 passes in bf16 over 128 tokens: under 50 s on two cores"
    )
    is_quick = parser.parse_args().quick
    torch.set_num_threads(1)
    table = Table(title=f"Training passes of MiniLM-L6 over {TOKENS:,} tokens", title_justify="left")
    for heading in ("tokens per text", "format", "PyTorch, ms", "cxml, ms", "speed-up"):
        table.add_column(heading, justify="right")
    shown = 0.0, 0.0
    for dtype in (torch.bfloat16,) if is_quick else (torch.bfloat16, torch.float32):
        encoder = build_encoder(ModelConfig(taps=("6",)), num_levels=1).to(dtype).train()
        for length in (128,) if is_quick else (16, 32, 64, 128, 256, 512):
            plain, ours = measure(encoder, length, 3 if is_quick else 7)
            name = str(dtype).removeprefix("torch.")
            table.add_row(str(length), name, f"{1000 * plain:,.0f}", f"{1000 * ours:,.0f}", f"{plain / ours:.2f}")
            shown = (plain, ours) if (dtype, length) == SHOWN else shown
    Console().print(table)
    plain, ours = shown
    print_closing_line("cpu_training", 1000 * ours, "ms", 1000 * plain, goal=GOAL, lower_is_better=True)


def measure(encoder: TappedEncoder, length: int, passes: int) -> tuple[float, float]:
    """CPU seconds of a pass with PyTorch's operations, and of one with cxml's."""
    timed_in_pytorch(encoder, length)
    timed(encoder, length)
    pairs = [(timed_in_pytorch(encoder, length), timed(encoder, length)) for _ in range(passes)]
    return statistics.median(plain for plain, _ in pairs), statistics.median(ours for _, ours in pairs)


def timed_in_pytorch(encoder: TappedEncoder, length: int) -> float:
    """`timed` with PyTorch's attention and dropout."""
    with mock.patch.object(encoder_module, "CpuTraining", nullcontext):
        return timed(encoder, length)


def timed(encoder: TappedEncoder, length: int) -> float:
    """CPU seconds of a pass."""
    return timed_pass(encoder, TOKENS // length, length, time.process_time)


if __name__ == "__main__":
    main()
