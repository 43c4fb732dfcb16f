"""Measures the gain of a second label tree, built midway from the features that training has formed.

    python benchmarks/quality/recluster.py --config configs/wordnet.yaml --data.source.path FOLDER [OPTIONS]
    python benchmarks/quality/recluster.py --quick

The benchmark trains the run of the config. It then continues from the trained encoder twice, with fresh classifiers and
the same seed and settings: on the same tree, and on the tree of `python -m cxml.recluster`, which clusters labels by
their texts' features. Options of `python -m cxml.train` hold for all runs. Finished runs are not repeated. The
benchmark prints the metrics. The last line is JSON: P@5 on the new tree against that on the same tree.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from quality.compare import QUICK, print_metrics  # noqa: E402
from support.closing_line import print_closing_line  # noqa: E402
from support.configs import config_of  # noqa: E402
from support.small_runs import run_here  # noqa: E402

from cxml.checkpoint import model_url  # noqa: E402
from cxml.console import set_up_logging  # noqa: E402
from cxml.data import data_url  # noqa: E402
from cxml.parallel import run_workers  # noqa: E402
from cxml.pipeline import run  # noqa: E402
from cxml.transfer.learnt_tree import recluster  # noqa: E402
from cxml.tree import tree_url  # noqa: E402

SHORTLISTS = ["--head.candidates", "shortlist", "--model.shortlist-sizes", "4", "12"]  # where the tree matters


def main() -> None:
    """Parse, train three times, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small chapter of ICD-10-CM: under 50 s")
    parser.add_argument("--config", default=str(ROOT / "configs" / "wordnet.yaml"))
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks/recluster"), help="folder of the runs")
    options, rest = parser.parse_known_args()
    if options.quick:
        options.config, options.folder = str(ROOT / "configs" / "icd10cm.yaml"), options.folder / "quick"
        rest = [*QUICK, *SHORTLISTS, "--train.epochs", "1", "--evaluate.examples", "0", *rest]
    words = ["--config", options.config, "--evaluate.no-baseline", *rest]
    config = config_of("recluster.py", words)
    set_up_logging(is_main=True)
    first = dataclasses.replace(config, output=str(options.folder / "first"))
    run_job = run_here if options.quick else run_workers
    found = {"first run": run(first, run_job=run_job)["levels"][-1]}
    model = dataclasses.replace(config.model, start_from=model_url(first), start_with="encoder")
    data = dataclasses.replace(config.data, directory=data_url(first))
    same = dataclasses.replace(
        config, model=model, data=data, output=str(options.folder / "same"),
        tree=dataclasses.replace(config.tree, directory=tree_url(first)),
    )  # fmt: skip
    again = dataclasses.replace(same, tree=config.tree, output=str(options.folder / "again"))
    found["second epoch, same tree"] = run(same, run_job=run_job)["levels"][-1]
    if not Path(tree_url(again), "manifest.json").exists():
        recluster(again, first.output)
    found["second epoch, tree of the trained features"] = run(again, run_job=run_job)["levels"][-1]
    report(found)


def report(found: dict[str, dict[str, float]]) -> None:
    """Print the table and the closing line."""
    print_metrics(found)
    _, same, again = (one["P@5"] for one in found.values())
    print_closing_line("recluster", again, "P@5, %", same, goal=1.0)


if __name__ == "__main__":
    main()
