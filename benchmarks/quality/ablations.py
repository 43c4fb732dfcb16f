"""Measures what each choice of a config contributes: the run as configured, and runs with one change each.

    python benchmarks/quality/ablations.py --config configs/wordnet.yaml --data.source.path FOLDER --train.epochs 1
    python benchmarks/quality/ablations.py --quick

All runs share the data, the label tree and the seed. Options of `python -m cxml.train` that follow hold for every run.
`end-to-end-after-frozen` continues from the end of `frozen-encoder`, and its time excludes the time of
`frozen-encoder`. Finished runs are not repeated, so variants can run separately, side by side. The benchmark prints the
labels' metrics, the share of the true labels that the clusters pass on, and the minutes of training. The last line is
JSON: P@1 as configured against that of the best variant.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from quality.compare import COLUMNS, QUICK  # noqa: E402
from support.closing_line import print_closing_line  # noqa: E402
from support.configs import config_of  # noqa: E402
from support.train_records import train_records  # noqa: E402

from cxml.config import Config  # noqa: E402
from cxml.console import set_up_logging  # noqa: E402
from cxml.data import data_url  # noqa: E402
from cxml.model import read_encoder_config  # noqa: E402
from cxml.model.encoder import default_taps  # noqa: E402
from cxml.pipeline import run  # noqa: E402
from cxml.pipeline.resolved_config import resolved  # noqa: E402
from cxml.tree import tree_url  # noqa: E402

CONFIGURED, FROZEN, STAGED = "as configured", "frozen-encoder", "end-to-end-after-frozen"

FRESH = ["--model.classifier-start", "fresh"]
FRESH_RATE = "0.01"  # classifiers near zero need larger steps than those at centroids
SGD = ["--head.optimizer", "sgd", "--optim.classifier-weight-decay", "0"]
SGD_RATES = ("1000", "10000")  # the gradient is that of a mean over all scored labels


def main() -> None:
    """Parse, train, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="one small chapter of ICD-10-CM, three variants: under 50 s"
    )
    parser.add_argument("--config", default=str(ROOT / "configs" / "wordnet.yaml"))
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks/ablations"), help="folder of the runs")
    parser.add_argument("--variants", nargs="+", help="run only these variants, besides the run as configured")
    options, rest = parser.parse_known_args()
    if options.quick:
        options.config, options.folder = str(ROOT / "configs" / "icd10cm.yaml"), options.folder / "quick"
        options.variants = options.variants or ["classifiers-from-centroids", "level-scores"]
        rest = [*QUICK, "--train.epochs", "1", "--evaluate.examples", "0", *rest]
    words = ["--config", options.config, "--evaluate.no-baseline", *rest]
    base = settings([*words, "--output", str(options.folder / CONFIGURED.replace(" ", "-"))])
    set_up_logging(is_main=True)
    found = {CONFIGURED: result(base)}
    shared = ["--data.directory", data_url(base), "--tree.directory", tree_url(base)]
    changes = variants(resolved(base), options.folder)
    wanted = options.variants or list(changes)
    if STAGED in wanted and FROZEN not in wanted:
        wanted.append(FROZEN)
    for name, change in changes.items():
        if name in wanted:
            found[name] = result(settings([*words, *shared, *change, "--output", str(options.folder / name)]))
    report(found)


def settings(words: list[str]) -> Config:
    """Config of a command line."""
    return config_of("ablations.py", words)


def variants(base: Config, folder: Path) -> dict[str, list[str]]:
    """Options that change one thing of the config, by name, without those that the config already has.

    Later variants may start from the model of an earlier one, in `folder`.
    """
    levels, depth = base.num_levels, read_encoder_config(base.model).num_hidden_layers
    changes = {
        "fresh-classifiers": FRESH,
        f"fresh-classifiers-at-{FRESH_RATE}": [*FRESH, "--optim.classifier-lr", FRESH_RATE],
        "classifiers-from-centroids": ["--model.classifier-start", "centroids"],
        "without-names": ["--train.name-texts", ""],
        "scored-on-shortlists": ["--head.candidates", "shortlist"],
        "scored-on-all-labels": ["--head.candidates", "all"],
        "one-shared-feature": ["--model.taps", *[str(depth)] * levels],
        "a-feature-per-level": ["--model.taps", *("+".join(map(str, tap)) for tap in default_taps(depth, levels))],
        FROZEN: ["--model.freeze-layers", str(depth)],
        STAGED: ["--model.start-from", str(folder / FROZEN / "model"), "--model.start-with", "all", *FRESH],
        "first-token": ["--model.pooling", "cls"],
        "weighted-scores": ["--model.scoring", "weighted"],
        "level-scores": ["--model.scoring", "level"],
        "without-teacher-forcing": ["--model.no-teacher-forcing"],
        "labels-weigh-double": ["--model.level-weights", *["1"] * (levels - 1), "2"],
        "half-the-shortlists": ["--model.shortlist-sizes", *map(str, _scaled(base, 0.5))],
        "twice-the-shortlists": ["--model.shortlist-sizes", *map(str, _scaled(base, 2))],
        **{f"head-by-sgd-at-{rate}": [*SGD, "--head.learning-rate", rate] for rate in SGD_RATES},
        "batches-by-length": ["--train.bucket-by-length"],
        "batches-at-random": ["--train.no-bucket-by-length"],
    }
    is_so = {
        "fresh-classifiers": base.model.classifier_start == "fresh",
        f"fresh-classifiers-at-{FRESH_RATE}": base.model.classifier_start == "fresh",
        "classifiers-from-centroids": base.model.classifier_start == "centroids",
        "without-names": not base.train.name_texts,
        "scored-on-shortlists": base.head.candidates == "shortlist",
        "scored-on-all-labels": base.head.candidates == "all",
        "weighted-scores": base.model.scoring == "weighted",
        "level-scores": base.model.scoring == "level",
        "batches-by-length": base.train.bucket_by_length,
        "batches-at-random": not base.train.bucket_by_length,
        "first-token": base.model.pooling == "cls",
    }
    return {name: words for name, words in changes.items() if not is_so.get(name, False)}


def _scaled(base: Config, factor: float) -> list[int]:
    sizes = base.model.shortlist_sizes or (64,) * (base.num_levels - 1)
    return [max(1, int(size * factor)) for size in sizes]


def result(config: Config) -> dict[str, Any]:
    """Metrics of a run, which is trained if it is not finished."""
    levels = run(config)["levels"]
    seconds = train_records(config.output)[-1]["seconds"]
    recall = levels[-2]["cluster_recall"] if len(levels) > 1 else 100.0
    return {**levels[-1], "cluster_recall": recall, "minutes": seconds / 60}


def report(found: dict[str, dict[str, Any]]) -> None:
    """Print the table and the closing line."""
    table = Table("", *COLUMNS, "cluster recall", "train, min")
    for name, one in found.items():
        table.add_row(name, *(f"{one[column]:.2f}" for column in (*COLUMNS, "cluster_recall")), f"{one['minutes']:.1f}")
    Console(width=140).print(table)
    best = max(one["P@1"] for name, one in found.items() if name != CONFIGURED)
    print_closing_line("ablations", found[CONFIGURED]["P@1"], "P@1, %", best, goal=1.0)


if __name__ == "__main__":
    main()
