"""Compiles the Triton kernels of sharded levels for CUDA cards; the machine itself needs no card.

    python benchmarks/compiled_kernels.py [--quick] [--capabilities 80 90] [--widths 384 768 1024] [--formats fp32 ...]
        [--kernels shortlist_loss ...]

Each kernel is compiled ahead of time for each compute capability and row width in all row formats, as the classes of
`cxml.optim.triton_kernels` launch it. The first table shows the bytes that each thread spills (goal: 0), the registers
of a thread, the shared memory of a program (goal: at most 100 KB), the number of tensor-core instructions (goal: at
least one in training kernels) and the seconds of compilation on one core (goal: under 20). The second table shows the
bytes per weight that a training step moves (goal: at most 1.5 times what the optimiser's state needs). Nothing runs on
a card. Without --kernels, the kernels of `support.fused_launches` are compiled as well.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass

os.environ.pop("TRITON_INTERPRET", None)  # the kernels are compiled here, not interpreted
os.environ["TRITON_ALWAYS_COMPILE"] = "1"

import torch
from rich.console import Console
from rich.table import Table
from support.ahead_of_time import Compiled, Launch, compile_launch, recorded_launches
from support.closing_line import print_closing_line
from support.fused_launches import fused_launches

from cxml.optim import RowSchedule, RowState, RowTensors
from cxml.optim.candidates import AllRows, LeafRows, Shortlists
from cxml.optim.triton_kernels import TritonAllRowsKernels, TritonShortlistKernels

MOST_SHARED = 100 * 1024
MOST_SECONDS = 20.0
MOST_TRAFFIC = 1.5
ROWS, TEXTS = 64, 32  # sizes of the recorded arguments, which do not affect the code
FORMATS = {
    f"{weights}, {name}": (weights, optimizer, second)
    for weights in ("fp32", "bf16", "bf16-kahan", "fp8")
    for name, optimizer, second in (("AdamW", "adamw", "full"), ("AdamW row", "adamw", "row"), ("SGD", "sgd", "full"))
    if (weights, name) != ("fp8", "AdamW")
}
QUICK = ["fp32, AdamW", "bf16, AdamW row"]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Kind of rows that a kernel is compiled for."""

    width: int
    format: str
    features: torch.dtype = torch.float32
    clip: float = 0.0

    @property
    def words(self) -> str:
        """Description of the case in the table."""
        features = ", bf16 features" if self.features == torch.bfloat16 else ""
        return self.format + features + (", clipped" if self.clip else "")

    def state(self, num_rows: int) -> RowState:
        """Make fresh rows."""
        weights, optimizer, second = FORMATS[self.format]
        return RowState.zeros(num_rows, self.width, weights=weights, optimizer=optimizer, second_moment=second)

    def rows(self) -> tuple[RowTensors, LeafRows]:
        """Row tensors and layout of one leaf."""
        leaf_rows = LeafRows(torch.tensor([0, ROWS]), torch.zeros(1, dtype=torch.int64), ROWS)
        return RowTensors.of(self.state(ROWS), torch.device("cpu")), leaf_rows

    def schedule(self) -> RowSchedule:
        """Schedule in its second step."""
        schedule = RowSchedule(decay=0.01, beta2=0.99, epsilon=1e-8, clip_row_norm=self.clip)
        for _ in range(2):
            schedule.begin_step(1e-3, 0.9)
        return schedule

    def candidates(self, kind: str) -> Shortlists | AllRows:
        """Candidates of texts that all want the leaf."""
        features = torch.zeros(TEXTS, self.width, dtype=self.features)
        if kind == "all_rows":
            return AllRows(features, torch.arange(TEXTS), torch.arange(TEXTS), torch.ones(TEXTS))
        pairs = torch.arange(TEXTS, dtype=torch.int32)
        return Shortlists(features, pairs * 0, pairs, torch.ones(TEXTS), pairs[:, None].expand(-1, ROWS // 32))


def launch(name: str, case: Case) -> Launch:
    """Record the launch of a kernel by its name, for example `shortlist_loss`."""
    kind = "all_rows" if name.startswith("all_rows") else "shortlist"
    kernels = (TritonAllRowsKernels if kind == "all_rows" else TritonShortlistKernels)(
        deterministic=name == "segment_sum"
    )
    arguments = (*case.rows(), case.candidates(kind), case.schedule())
    with recorded_launches() as launches:
        if name in {"shortlist_scores", "all_rows_keys"}:
            kernels.best(*arguments, 3)  # pyright: ignore[reportArgumentType]
        elif name.endswith("update"):
            kernels.update(*arguments, 0.5, factor=torch.ones(()), is_finite=torch.tensor(True))  # pyright: ignore[reportArgumentType]
        elif name.endswith("squares"):
            kernels.squares(*arguments, 0.5)  # pyright: ignore[reportArgumentType]
        else:
            kernels.loss(*arguments)  # pyright: ignore[reportArgumentType]
    (found,) = (own for own in launches if own.name == name)
    return found


KERNELS = (
    "shortlist_loss", "shortlist_update", "shortlist_squares", "shortlist_scores", "segment_sum",
    "all_rows_loss", "all_rows_update", "all_rows_squares", "all_rows_keys",
)  # fmt: skip


def launches_of(
    name: str, width: int, formats: list[str], *, of_bf16: bool = True
) -> Iterator[tuple[str, Launch]]:  # fmt: skip
    """Yield each launch that compiles a kernel differently, with a description.

    Args:
        name: name of the kernel.
        width: row width D.
        formats: row formats, from FORMATS.
        of_bf16: whether to add bfloat16 features where the rows are bfloat16.
    """
    ways = []
    for form in formats:
        ways.append(Case(width=width, format=form))
        if of_bf16 and not form.startswith("fp32"):
            ways.append(Case(width=width, format=form, features=torch.bfloat16))
        if name.endswith("update"):
            ways.append(Case(width=width, format=form, clip=1.0))
    seen = set()
    for case in ways:
        found = launch(name, case)
        types = tuple(getattr(value, "dtype", type(value)) for value in found.arguments.values())
        key = (types, tuple(found.constants.items()))
        if key not in seen:
            seen.add(key)
            yield case.words, found


def bytes_of_state(case: Case) -> float:
    """Bytes per weight that an update has to move: the state of the row is read and written once."""
    return 2 * case.state(1).num_bytes / case.width


def bytes_moved(case: Case) -> float:
    """Bytes per weight that `loss` and `update` move between memory and the card's caches.

    Both kernels load the weights of a tile of rows once to score it. `update` then loads and stores the state of the
    rows, which `bytes_of_state` counts. The weights are then still in the cache, since a tile is 16 or 32 rows. Biases
    and last steps are also loaded twice. Features, slopes and truths are per text or pair and stay in the second-level
    cache, so they are not counted.
    """
    state = case.state(1)
    return (state.weight.nbytes + state.bias.nbytes + state.last_step.nbytes) / case.width + bytes_of_state(case)


def main() -> None:
    """Parse, compile, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="sm_90, width 768, two formats: under 50 s")
    parser.add_argument("--capabilities", type=int, nargs="+")
    parser.add_argument("--widths", type=int, nargs="+")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, metavar="FORMAT", help=", ".join(FORMATS))
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=list(KERNELS))
    options = parser.parse_args()
    capabilities = options.capabilities or ([90] if options.quick else [80, 90])
    widths = options.widths or ([768] if options.quick else [384, 768, 1024])
    formats = options.formats or (QUICK if options.quick else list(FORMATS))
    made: dict[str, list[Compiled]] = {name: [] for name in options.kernels}
    table = Table(title="Kernels, compiled ahead of time", title_justify="left")
    for heading in ("kernel", "card", "D", "rows", "spilled, B", "registers", "shared, KB", "products", "s"):
        table.add_column(heading, justify="left" if heading in {"kernel", "card", "rows"} else "right")
    for name in options.kernels:
        for capability in capabilities:
            for width in widths:
                for words, own in launches_of(name, width, formats, of_bf16=not options.quick):
                    found = compile_launch(own, capability)
                    made[name].append(found)
                    row = (name, f"sm_{capability}", f"{width:,}", words, *cells(found))
                    table.add_row(*row)
                    print(*row, sep=" | ", file=sys.stderr)
    if not options.quick and options.kernels == list(KERNELS):
        made["fused"] = add_fused(table, capabilities)
    console = Console(width=120)
    console.print(table)
    every = [found for kernels in made.values() for found in kernels]
    cases = [Case(width=width, format=form) for width in widths for form in formats]
    console.print(traffic_table(cases))
    holds = all(not found.spilled and found.shared <= MOST_SHARED for found in every)
    holds &= all(bytes_moved(case) <= MOST_TRAFFIC * bytes_of_state(case) for case in cases)
    trains = [found for name in KERNELS[:2] + KERNELS[5:7] for found in made.get(name, [])]
    print_closing_line(
        "compiled_kernels", max(found.seconds for found in every), "s to compile, slowest kernel", MOST_SECONDS, goal=1,
        lower_is_better=True, provided=holds and all(found.products for found in trains),
    )  # fmt: skip


def add_fused(table: Table, capabilities: list[int]) -> list[Compiled]:
    """Compile the kernels that replace many small operations; they do not depend on width and format of the rows."""
    made = []
    for capability in capabilities:
        for words, own in fused_launches():
            found = compile_launch(own, capability)
            made.append(found)
            table.add_row(own.name, f"sm_{capability}", "", words, *cells(found))
    return made


def traffic_table(cases: list[Case]) -> Table:
    """Table of the bytes per weight."""
    table = Table(title=f"Bytes per weight, loss and update (goal: at most {MOST_TRAFFIC} x)", title_justify="left")
    for heading in ("D", "rows", "state", "moved", "x"):
        table.add_column(heading, justify="left" if heading == "rows" else "right")
    for case in cases:
        needed, moved = bytes_of_state(case), bytes_moved(case)
        table.add_row(f"{case.width:,}", case.format, f"{needed:.2f}", f"{moved:.2f}", f"{moved / needed:.2f}")
    return table


def cells(found: Compiled) -> tuple[str, ...]:
    """Cells of a row of the table."""
    return (
        f"{found.spilled:,}", str(found.registers), f"{found.shared / 1024:.1f}", str(found.products),
        f"{found.seconds:.1f}",
    )  # fmt: skip


if __name__ == "__main__":
    main()
