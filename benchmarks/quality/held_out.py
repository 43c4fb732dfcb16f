"""Compares settings on held-out training texts, over several seeds; the test texts are not used."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from quality.compare import QUICK
from support.configs import config_of

from cxml import storage
from cxml.console import set_up_logging
from cxml.data import data_url
from cxml.pipeline import run
from cxml.preparation import prepare
from cxml.preparation.validation_split import hold_out

ROOT = Path(__file__).parent.parent.parent
HELD_OUT = 0.2
METRICS = ("P@1", "P@5", "PSP@5")


def parser_of(description: str | None, folder: str) -> argparse.ArgumentParser:
    """Parser of the options that all comparisons have; their runs are in `folder` of the benchmarks' runs."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small chapter of ICD-10-CM, one seed")
    parser.add_argument("--config", default=str(ROOT / "configs" / "icd10cm.yaml"))
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks") / folder, help="folder of the runs")
    parser.add_argument("--share", type=float, default=1.0, help="share of the training texts that is used")
    parser.add_argument("--seeds", type=int, default=3)
    return parser


def parsed(parser: argparse.ArgumentParser, *further: str) -> tuple[argparse.Namespace, list[str]]:
    """Parse as `parsed_without_data` does, and prepare the held-out texts that all runs share."""
    options, words = parsed_without_data(parser, *further)
    return options, [*words, "--data.directory", held_out(words, options.folder, options.share)]


def parsed_without_data(parser: argparse.ArgumentParser, *further: str) -> tuple[argparse.Namespace, list[str]]:
    """Parse the options; also return what all runs have in common, as options of `python -m cxml.train`.

    `further` are options of `python -m cxml.train` that come before those of the command line.
    """
    options, rest = parser.parse_known_args()
    rest = [*further, *rest]
    if options.quick:
        options.folder, options.seeds = options.folder / "quick", 1
        rest = [*QUICK, "--evaluate.examples", "0", *rest]
    set_up_logging(is_main=True)
    return options, ["--config", options.config, "--evaluate.no-baseline", *rest]


def held_out(words: list[str], folder: Path, share: float) -> str:
    """Make a data set of a share of the training texts, a fifth of which is its test split, if it is not there."""
    config = config_of("comparison", [*words, "--output", str(folder)])
    prepare(config)
    source, part, target = data_url(config), str(folder / "part"), str(folder / "validation")
    if storage.file_sizes(target):
        return target
    if share < 1:
        hold_out(source, part, fraction=1 - share, seed=0, name="rest")
        source = part
    hold_out(source, target, fraction=HELD_OUT, seed=0, name="test")
    return target


def metrics(words: list[str], folder: Path, seed: int, names: Sequence[str] = METRICS) -> list[float]:
    """Label metrics of a run, trained if it is not finished; runs of one seed in the same folder share a tree."""
    places = ["--output", str(folder / f"seed-{seed}"), "--tree.directory", str(folder.parent / f"tree-{seed}")]
    labels = run(config_of("comparison", [*words, "--seed", str(seed), *places]))["levels"][-1]
    return [labels[name] for name in names]


def cells(values: np.ndarray, *, signed: bool) -> list[str]:
    """Mean of each column, with its standard error if there are several seeds."""
    form = "+.2f" if signed else ".2f"
    if len(values) == 1:
        return [f"{value:{form}}" for value in values[0]]
    errors = values.std(0, ddof=1) / np.sqrt(len(values))
    return [f"{mean:{form}} ± {error:.2f}" for mean, error in zip(values.mean(0), errors, strict=True)]
