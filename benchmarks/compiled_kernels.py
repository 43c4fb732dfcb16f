"""What the compiler makes of the Triton kernels of the label rows, for cards that this machine need not have.

    python benchmarks/compiled_kernels.py [--quick] [--capabilities 80 90] [--widths 384 768 1024] [--formats fp32 ...]
        [--kernels train update score]

Each kernel is compiled ahead of time for each compute capability and row width in all row formats, as the functions of
`cxml.optim.row_triton` launch it. The table shows bytes that each thread spills (goal 0), registers of a thread, shared
memory of a program (goal: at most 100 KB), tensor-core instructions (the training kernel has to have some) and seconds
to compile on one core (goal: under 20). Nothing runs on a card.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

os.environ.pop("TRITON_INTERPRET", None)  # the compiler is wanted, not the interpreter
os.environ["TRITON_ALWAYS_COMPILE"] = "1"

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from support.ahead_of_time import Compiled, Launch, compile_launch, recorded_launches
from support.closing_line import print_closing_line

from cxml.optim import RowSchedule, RowState, RowTensors
from cxml.optim.row_triton import best_rows_on_device, train_groups_on_device, update_rows_on_device

MOST_SHARED = 100 * 1024
MOST_SECONDS = 20.0
ROWS, TEXTS = 32, 20  # of the arguments that the launches are recorded with; they do not enter the code
FORMATS = {
    f"{weights}, {name}": (weights, optimizer, second)
    for weights in ("fp32", "bf16", "bf16-kahan")
    for name, optimizer, second in (("AdamW", "adamw", "full"), ("AdamW row", "adamw", "row"), ("SGD", "sgd", "full"))
}


@dataclass(frozen=True, kw_only=True)
class Case:
    """Rows that a kernel is compiled for."""

    width: int
    format: str
    clip: float = 0.0

    def arguments(self) -> tuple[RowTensors, RowSchedule, torch.Tensor]:
        """Rows, a schedule in its second step and its decay."""
        weights, optimizer, second = FORMATS[self.format]
        state = RowState.zeros(ROWS, self.width, weights=weights, optimizer=optimizer, second_moment=second)
        rows = RowTensors.of(state, torch.device("cpu"))
        schedule = RowSchedule(decay=0.01, beta2=0.99, epsilon=1e-8, clip_row_norm=self.clip)
        for _ in range(2):
            schedule.begin_step(1e-3, 0.9)
        return rows, schedule, torch.from_numpy(schedule.log_decay)


def train(case: Case, mode: int = 1) -> None:
    """Launch the training kernel: one leaf that all texts want."""
    rows, schedule, log_decay = case.arguments()
    zero, scores = np.zeros(1, np.int64), ROWS * TEXTS
    groups = (
        zero, zero + ROWS, zero, np.array([0, TEXTS]), np.arange(TEXTS), np.array([0, scores]), np.array([0, ROWS]),
    )  # fmt: skip
    train_groups_on_device(
        groups, torch.zeros(TEXTS, case.width), torch.ones(TEXTS), torch.zeros(scores, dtype=torch.uint8), 0.5, mode,
        schedule, log_decay, rows,
    )  # fmt: skip


def update(case: Case) -> None:
    """Launch the kernel that updates rows from gradients at hand."""
    rows, schedule, log_decay = case.arguments()
    which = torch.arange(ROWS)
    gradients = torch.zeros(ROWS, case.width + 1)
    update_rows_on_device(rows, schedule, log_decay, which=which, gradients=gradients, row_ids=which)


def score(case: Case) -> None:
    """Launch the kernel that scores rows for prediction."""
    rows, schedule, log_decay = case.arguments()
    zero = torch.zeros(1, dtype=torch.int64)
    wanted = (torch.tensor([0, 1]), zero, zero + ROWS, torch.zeros(1), zero)
    best_rows_on_device(torch.zeros(1, case.width), wanted, 3, log_decay, schedule.step, rows)


KERNELS: dict[str, Callable[[Case], None]] = {"train": train, "update": update, "score": score}


def launches_of(name: str, width: int, formats: list[str]) -> Iterator[tuple[str, Launch]]:
    """What a kernel is launched for, in words, and the launch; each way of compiling it once."""
    ways: list[tuple[str, Callable[[], None]]] = []
    for form in formats:
        case, clipped = Case(width=width, format=form), Case(width=width, format=form, clip=1.0)
        ways.append((form, lambda case=case: KERNELS[name](case)))
        if name != "score":
            ways.append((f"{form}, clipped", lambda case=clipped: KERNELS[name](case)))
        if name == "train" and form.endswith(", AdamW"):  # the optimiser has no part in these modes
            ways += [(f"{form}, mode {mode}", lambda case=case, mode=mode: train(case, mode)) for mode in (0, 2)]
    seen = set()
    for words, way in ways:
        with recorded_launches() as launches:
            way()
        (launch,) = launches
        types = tuple(getattr(value, "dtype", type(value)) for value in launch.arguments.values())
        key = (types, tuple(launch.constants.items()))
        if key not in seen:
            seen.add(key)
            yield words, launch


def main() -> None:
    """Parse, compile, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="sm_90, width 768, three formats: under 50 s")
    parser.add_argument("--capabilities", type=int, nargs="+")
    parser.add_argument("--widths", type=int, nargs="+")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, metavar="FORMAT", help=", ".join(FORMATS))
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=list(KERNELS))
    options = parser.parse_args()
    capabilities = options.capabilities or ([90] if options.quick else [80, 90])
    widths = options.widths or ([768] if options.quick else [384, 768, 1024])
    formats = options.formats or (["fp32, AdamW", "bf16, AdamW", "bf16, AdamW row"] if options.quick else list(FORMATS))
    made: dict[str, list[Compiled]] = {name: [] for name in options.kernels}
    table = Table(title="Kernels, compiled ahead of time", title_justify="left")
    for heading in ("kernel", "card", "D", "rows", "spilled, B", "registers", "shared, KB", "products", "s"):
        table.add_column(heading, justify="left" if heading in {"kernel", "card", "rows"} else "right")
    for name in options.kernels:
        for capability in capabilities:
            for width in widths:
                for words, launch in launches_of(name, width, formats):
                    found = compile_launch(launch, capability)
                    made[name].append(found)
                    row = (name, f"sm_{capability}", f"{width:,}", words, *cells(found))
                    table.add_row(*row)
                    print(*row, sep=" | ", file=sys.stderr)
    Console(width=120).print(table)
    every = [found for kernels in made.values() for found in kernels]
    holds = all(not found.spilled and found.shared <= MOST_SHARED for found in every)
    print_closing_line(
        "compiled_kernels", max(found.seconds for found in every), "s to compile, slowest kernel", MOST_SECONDS, goal=1,
        lower_is_better=True, provided=holds and all(found.products for found in made.get("train", [])),
    )  # fmt: skip


def cells(found: Compiled) -> tuple[str, ...]:
    """A row of the table."""
    return (
        f"{found.spilled:,}", str(found.registers), f"{found.shared / 1024:.1f}", str(found.products),
        f"{found.seconds:.1f}",
    )  # fmt: skip


if __name__ == "__main__":
    main()
