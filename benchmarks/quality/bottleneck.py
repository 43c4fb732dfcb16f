"""Measures the loss of quality by label rows narrower than the encoder, on held-out training texts, over several seeds.

    python benchmarks/quality/bottleneck.py --config configs/icd10cm.yaml [--share 0.2] [--widths 32 64 128]
    python benchmarks/quality/bottleneck.py --quick

A fifth of the chosen share of the training texts is held out; the test texts are not used. Options of `python -m
cxml.train` that follow hold for every run. Finished runs are not repeated. The benchmark prints the mean over the seeds
with its standard error, and the mean difference to full rows with the same seed. The last line is JSON: P@1 of the
narrowest rows against that of full rows. The goal is a loss of at most 1 %.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from quality.held_out import METRICS, cells, metrics, parsed, parser_of
from support.closing_line import print_closing_line

FULL = 0


def main() -> None:
    """Parse, train, print."""
    parser = parser_of(__doc__, "bottleneck")
    parser.add_argument("--widths", type=int, nargs="+", default=[64], help="widths of the label rows")
    options, words = parsed(parser)
    found: dict[int, list[list[float]]] = {width: [] for width in (FULL, *options.widths)}
    for seed in range(options.seeds):  # all widths of a seed first, so that partial results are comparable
        for width, values in found.items():
            folder = options.folder / f"width-{width}"
            values.append(metrics([*words, "--model.bottleneck", str(width)], folder, seed))
    report({width: np.array(values) for width, values in found.items()})


def report(found: dict[int, np.ndarray]) -> None:
    """Print the table and the closing line. `found` has metrics, [seeds, METRICS], of each width."""
    table = Table("label rows", *METRICS, *(f"{name} - full rows'" for name in METRICS))
    for width, values in found.items():
        name = f"{width} wide" if width else "full"
        table.add_row(name, *cells(values, signed=False), *cells(values - found[FULL], signed=True))
    Console(width=140).print(table)
    width = min(found.keys() - {FULL})
    narrow, full = (float(found[each][:, 0].mean()) for each in (width, FULL))
    print_closing_line(f"bottleneck, rows {width} wide", narrow, "P@1, %", full, goal=0.99)


if __name__ == "__main__":
    main()
