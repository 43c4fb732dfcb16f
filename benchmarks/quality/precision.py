"""What training and predicting in bf16 does to the metrics, on held-out training texts, over several seeds.

    python benchmarks/quality/precision.py --config configs/wordnet.yaml --data.source.path FOLDER [--share 0.2]
    python benchmarks/quality/precision.py --quick

Of the training texts a share is taken, and a fifth of it held out; the test texts are not looked at. All runs share the
data and the label tree of the config; options of `python -m cxml.train` that follow hold for every one. Runs that are
finished are not run again. Each run predicts the held-out texts in the precision in which it was trained, and each
model of fp32 in bf16 too. Prints the mean of the seeds and its standard error, the mean difference to fp32 with the
same seed, and the minutes of training. The last line is JSON: P@1 of bf16 against that of fp32.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from quality.compare import QUICK  # noqa: E402
from quality.row_formats import METRICS, cells, held_out  # noqa: E402
from support.closing_line import print_closing_line  # noqa: E402
from support.configs import config_of  # noqa: E402

from cxml.console import set_up_logging  # noqa: E402
from cxml.pipeline import run  # noqa: E402


def main() -> None:
    """Parse, train, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small chapter of ICD-10-CM, one seed: under 50 s")
    parser.add_argument("--config", default=str(ROOT / "configs" / "icd10cm.yaml"))
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks/precision"), help="where the runs stay")
    parser.add_argument("--share", type=float, default=1.0, help="of the training texts that is used")
    parser.add_argument("--seeds", type=int, default=3)
    options, rest = parser.parse_known_args()
    if options.quick:
        options.folder, options.seeds = options.folder / "quick", 1
        rest = [*QUICK, "--evaluate.examples", "0", *rest]
    set_up_logging(is_speaker=True)
    words = ["--config", options.config, "--evaluate.no-baseline", *rest]
    words += ["--data.directory", held_out(words, options.folder, options.share)]
    words += ["--tree.directory", str(options.folder / "tree")]
    found: dict[tuple[str, str], list[list[float]]] = {}
    for seed in range(options.seeds):
        for trained, predicts in (("fp32", "fp32"), ("fp32", "bf16"), ("bf16", "bf16")):
            output = str(options.folder / trained / f"seed-{seed}")
            settings = ["--train.precision", trained, "--evaluate.precision", predicts]
            row = metrics([*words, *settings, "--seed", str(seed), "--output", output], output)
            found.setdefault((trained, predicts), []).append(row)
    report({name: np.array(rows) for name, rows in found.items()})


def metrics(words: list[str], output: str) -> list[float]:
    """METRICS of a run, trained if it is not yet, and the minutes of its training."""
    labels = run(config_of("precision.py", words))["levels"][-1]
    records = [json.loads(line) for line in Path(output, "metrics.jsonl").read_text().splitlines()]
    seconds = [record["seconds"] for record in records if record["kind"] == "train"][-1]
    return [*(labels[name] for name in METRICS), seconds / 60]


def report(found: dict[tuple[str, str], np.ndarray]) -> None:
    """Print the table and the closing line; of each way of training and predicting [seeds, METRICS and minutes]."""
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
