"""Measures the effect of each number format of the label rows on the metrics, on held-out training texts, over seeds.

    python benchmarks/quality/row_formats.py --config configs/wordnet.yaml --data.source.path FOLDER [--share 0.2]
    python benchmarks/quality/row_formats.py --quick

A share of the training texts is used, and a fifth of it is held out; the test texts are not used. All runs share the
data, and runs of one seed also share the label tree. Options of `python -m cxml.train` that follow hold for every run.
Finished runs are not repeated. The benchmark prints the mean over the seeds with its standard error, and the mean
difference to fp32 with the same optimiser and seed. The last line is JSON: P@1 of fp8 with SGD against that of fp32
with SGD.
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

SGD_RATE = "3000"  # between the two rates of ablations.py
SGD = ["--head.optimizer", "sgd", "--optim.classifier-weight-decay", "0", "--head.learning-rate", SGD_RATE]
ADAMW = ["--head.second-moment", "row"]
OPTIMIZERS = {"SGD": (SGD, ("fp32", "bf16", "fp8")), "AdamW row": (ADAMW, ("fp32", "bf16", "fp8"))}


def main() -> None:
    """Parse, train, print."""
    parser = parser_of(__doc__, "row-formats")
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    options, words = parsed(parser)
    if options.quick:
        options.optimizers = ["SGD"]
    found = {}
    for optimizer in options.optimizers:
        change, formats = OPTIMIZERS[optimizer]
        for form in formats:
            name = f"{form}, {optimizer}"
            found[name] = np.array([
                metrics([*words, *change, "--head.weights", form], options.folder / name.replace(", ", "-"), seed)
                for seed in range(options.seeds)
            ])  # fmt: skip
    report(found)


def report(found: dict[str, np.ndarray]) -> None:
    """Print the table and the closing line. `found` has metrics, [seeds, METRICS], of each name."""
    table = Table("", *METRICS, *(f"{name} - fp32's" for name in METRICS))
    for name, values in found.items():
        apart = values - found["fp32, " + name.split(", ")[1]]
        table.add_row(name, *cells(values, signed=False), *cells(apart, signed=True))
    Console(width=140).print(table)
    optimizer = next(iter(found)).split(", ")[1]
    names = f"fp8, {optimizer}", f"fp32, {optimizer}"
    fp8, fp32 = (float(found[name][:, 0].mean()) for name in names)
    print_closing_line(f"row_formats, {names[0]}", fp8, "P@1, %", fp32, goal=0.99)


if __name__ == "__main__":
    main()
