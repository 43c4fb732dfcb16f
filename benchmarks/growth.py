"""Measures whether the memory of a training process grows with the number of steps, in bf16 and in fp32.

    python benchmarks/growth.py [--steps 3000] [--precisions bf16 fp32] [--quick]

The runs train MiniLM-L6 on two chapters of ICD-10-CM, in batches by length with names of labels, so that nearly every
batch has another size. The resident memory of the process is recorded every ten steps. The table shows its mean over
each tenth of the steps. The last line is JSON: the mean over the last tenth against that over the second tenth, of the
precision that grows most.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from support.closing_line import print_closing_line
from support.configs import config_of
from support.train_records import train_records

from cxml.console import set_up_logging
from cxml.pipeline import run

CONFIG = Path(__file__).parent.parent / "configs" / "icd10cm.yaml"
TENTHS = 10
RECORD_EVERY = 10
SETTINGS = [
    "--config", str(CONFIG), "--data.source.chapters", "7", "13", "--tree.level-sizes", "64", "512",
    "--train.batch-size", "32", "--train.epochs", "40", "--train.num-workers", "1", "--train.bucket-by-length",
    "--log.every-steps", str(RECORD_EVERY), "--evaluate.no-baseline", "--evaluate.examples", "0",
]  # fmt: skip
QUICK = ["--data.source.chapters", "3", "--tree.level-sizes", "8", "64", "--model.freeze-layers", "5"]


def main() -> None:
    """Parse, train, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--precisions", nargs="+", choices=["bf16", "fp32"], default=["bf16", "fp32"])
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks/growth"), help="its content is replaced")
    parser.add_argument("--quick", action="store_true", help="200 steps on one small chapter, in bf16")
    options = parser.parse_args()
    words = SETTINGS
    if options.quick:
        options.steps, options.precisions, words = 200, ["bf16"], SETTINGS + QUICK
    set_up_logging(is_main=True)
    shutil.rmtree(options.folder, ignore_errors=True)
    found = {each: memory_by_tenth(each, options.steps, options.folder, words) for each in options.precisions}
    table = Table("GiB", *(f"to step {(tenth + 1) * options.steps // TENTHS:,}" for tenth in range(TENTHS)))
    for precision, values in found.items():
        table.add_row(precision, *(f"{value:.2f}" for value in values))
    Console(width=160).print(table)
    worst = max(found.values(), key=lambda values: values[-1] / values[1])
    print_closing_line("growth", float(worst[-1]), "GiB", float(worst[1]), goal=0.95, lower_is_better=True)


def memory_by_tenth(precision: str, steps: int, folder: Path, words: list[str]) -> np.ndarray:
    """Train; return the mean resident memory, GiB, over each tenth of the steps, [TENTHS]."""
    own = ["--train.precision", precision, "--train.steps", str(steps), "--output", str(folder / precision)]
    config = config_of("growth", [*words, *own, "--data.directory", str(folder / "data")])
    run(config)
    parts = np.array_split([record["memory_gib"] for record in train_records(config.output)], TENTHS)
    return np.array([part.mean() for part in parts])


if __name__ == "__main__":
    main()
