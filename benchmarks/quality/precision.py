"""Measures the effect of training in bf16 and of predicting in bf16 and int8 on the metrics, over seeds.

    python benchmarks/quality/precision.py --config configs/wordnet.yaml --data.source.path FOLDER [--share 0.2]
    python benchmarks/quality/precision.py --quick

A share of the training texts is used, and a fifth of it is held out for the metrics; the test texts are not used. All
runs share the data, and runs of one seed also share the label tree. Options of `python -m cxml.train` that follow hold
for every run. Finished runs are not repeated. Each run predicts the held-out texts in the precision in which it was
trained, and models trained in fp32 also predict in bf16 and int8. The benchmark prints the mean over the seeds with its
standard error, the mean difference to fp32 with the same seed, and the minutes of training. The last line is JSON: P@1
of bf16 against that of fp32.
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
from support.train_records import train_records


def main() -> None:
    """Parse, train, print."""
    options, words = parsed(parser_of(__doc__, "precision"))
    found: dict[tuple[str, str], list[list[float]]] = {}
    for seed in range(options.seeds):
        for trained, predicts in (("fp32", "fp32"), ("fp32", "bf16"), ("fp32", "int8"), ("bf16", "bf16")):
            folder = options.folder / trained
            settings = ["--train.precision", trained, "--evaluate.precision", predicts]
            row = [*metrics([*words, *settings], folder, seed), minutes(folder, seed)]
            found.setdefault((trained, predicts), []).append(row)
    report({name: np.array(rows) for name, rows in found.items()})


def minutes(folder: Path, seed: int) -> float:
    """Training time of a run in minutes."""
    return train_records(str(folder / f"seed-{seed}"))[-1]["seconds"] / 60


def report(found: dict[tuple[str, str], np.ndarray]) -> None:
    """Print the table and the closing line, from [seeds, METRICS and minutes] of each pair of formats."""
    table = Table("trained in", "predicts in", *METRICS, "minutes", *(f"{name} - fp32's" for name in METRICS))
    in_fp32 = found["fp32", "fp32"]
    for (trained, predicts), values in found.items():
        apart = (values - in_fp32)[:, :-1]
        table.add_row(trained, predicts, *cells(values, signed=False), *cells(apart, signed=True))
    Console(width=140).print(table)
    print_closing_line(
        "precision, bf16", float(found["bf16", "bf16"][:, 0].mean()), "P@1, %", float(in_fp32[:, 0].mean()), goal=0.99
    )


if __name__ == "__main__":
    main()
