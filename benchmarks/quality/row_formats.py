"""What each number format of the label rows does to the metrics, on held-out training texts, over several seeds.

    python benchmarks/quality/row_formats.py --config configs/wordnet.yaml --data.source.path FOLDER [--share 0.2]
    python benchmarks/quality/row_formats.py --quick

Of the training texts a share is taken, and a fifth of it held out; the test texts are not looked at. All runs share
the data and the label tree of the config; options of `python -m cxml.train` that follow hold for every one. Runs that
are finished are not run again. Prints the mean of the seeds and its standard error, and the mean difference to fp32
with the same optimiser and seed. The last line is JSON: P@1 of fp8 with SGD against that of fp32 with SGD.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from quality.compare import QUICK  # noqa: E402
from support.closing_line import print_closing_line  # noqa: E402
from support.configs import config_of  # noqa: E402

from cxml import storage  # noqa: E402
from cxml.console import set_up_logging  # noqa: E402
from cxml.data import data_url  # noqa: E402
from cxml.data_tools.preparation import prepare  # noqa: E402
from cxml.data_tools.splitting import hold_out  # noqa: E402
from cxml.pipeline import run  # noqa: E402

HELD_OUT = 0.2
METRICS = ("P@1", "P@5", "PSP@5")
SGD_RATE = "3000"  # between the two of ablations.py
SGD = ["--head.optimizer", "sgd", "--optim.classifier-weight-decay", "0", "--head.learning-rate", SGD_RATE]
ADAMW = ["--head.second-moment", "row"]
OPTIMIZERS = {"SGD": (SGD, ("fp32", "bf16", "fp8")), "AdamW row": (ADAMW, ("fp32", "bf16", "fp8"))}


def main() -> None:
    """Parse, train, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small chapter of ICD-10-CM, SGD, one seed")
    parser.add_argument("--config", default=str(ROOT / "configs" / "icd10cm.yaml"))
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks/row-formats"), help="where the runs stay")
    parser.add_argument("--share", type=float, default=1.0, help="of the training texts that is used")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    options, rest = parser.parse_known_args()
    if options.quick:
        options.folder, options.seeds, options.optimizers = options.folder / "quick", 1, ["SGD"]
        rest = [*QUICK, "--evaluate.examples", "0", *rest]
    set_up_logging(is_speaker=True)
    words = ["--config", options.config, "--evaluate.no-baseline", *rest]
    words += ["--data.directory", held_out(words, options.folder, options.share)]
    words += ["--tree.directory", str(options.folder / "tree")]
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


def held_out(words: list[str], folder: Path, share: float) -> str:
    """The data set of a share of the training texts, whose test split is a fifth of them; made if it is not there."""
    config = config_of("row_formats.py", [*words, "--output", str(folder)])
    prepare(config)
    source, part, target = data_url(config), str(folder / "part"), str(folder / "validation")
    if storage.file_sizes(target):
        return target
    if share < 1:
        hold_out(source, part, fraction=1 - share, seed=0, name="rest")
        source = part
    hold_out(source, target, fraction=HELD_OUT, seed=0, name="test")
    return target


def metrics(words: list[str], folder: Path, seed: int) -> list[float]:
    """METRICS of a run, trained if it is not yet."""
    output = str(folder / f"seed-{seed}")
    labels = run(config_of("row_formats.py", [*words, "--seed", str(seed), "--output", output]))["levels"][-1]
    return [labels[name] for name in METRICS]


def report(found: dict[str, np.ndarray]) -> None:
    """Print the table and the closing line; of each name metrics [seeds, METRICS]."""
    table = Table("", *METRICS, *(f"{name} - fp32's" for name in METRICS))
    for name, values in found.items():
        apart = values - found["fp32, " + name.split(", ")[1]]
        table.add_row(name, *cells(values, signed=False), *cells(apart, signed=True))
    Console(width=140).print(table)
    optimizer = next(iter(found)).split(", ")[1]
    names = f"fp8, {optimizer}", f"fp32, {optimizer}"
    fp8, fp32 = (float(found[name][:, 0].mean()) for name in names)
    print_closing_line(f"row_formats, {names[0]}", fp8, "P@1, %", fp32, goal=0.99)


def cells(values: np.ndarray, *, signed: bool) -> list[str]:
    """Mean of each column, and its standard error where there are several seeds."""
    form = "+.2f" if signed else ".2f"
    if len(values) == 1:
        return [f"{value:{form}}" for value in values[0]]
    errors = values.std(0, ddof=1) / np.sqrt(len(values))
    return [f"{mean:{form}} ± {error:.2f}" for mean, error in zip(values.mean(0), errors, strict=True)]


if __name__ == "__main__":
    main()
