"""What a second label tree is worth, made midway from the features that training has formed.

    python benchmarks/quality/recluster.py --config configs/wordnet.yaml --data.source.path FOLDER [OPTIONS]
    python benchmarks/quality/recluster.py --quick

Trains the run of the config, then goes on from its encoder twice, with fresh classifiers and the same seed and
settings: on the same tree, and on one whose labels are clustered by the mean of their texts' features. Options of
`python -m cxml.train` hold for all runs; what is finished is not run again. Prints the metrics. The last line is JSON:
P@5 on the same tree against that on the new one.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np
from scipy import sparse

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from quality.compare import QUICK, print_metrics  # noqa: E402
from support.closing_line import print_closing_line  # noqa: E402
from support.configs import config_of  # noqa: E402
from support.small_runs import run_here  # noqa: E402

from cxml.checkpoint import model_url  # noqa: E402
from cxml.config import Config  # noqa: E402
from cxml.console import set_up_logging, track  # noqa: E402
from cxml.data import ShardedDataset, data_url  # noqa: E402
from cxml.parallel import run_workers  # noqa: E402
from cxml.pipeline import run  # noqa: E402
from cxml.prediction import Predictor  # noqa: E402
from cxml.tree import build_tree, tree_fingerprint, tree_settings, tree_url  # noqa: E402

TEXTS_AT_ONCE = 4096


def main() -> None:
    """Parse, train three times, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small chapter of ICD-10-CM: under 50 s")
    parser.add_argument("--config", default=str(ROOT / "configs" / "wordnet.yaml"))
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmarks/recluster"), help="where the runs stay")
    options, rest = parser.parse_known_args()
    if options.quick:
        options.config, options.folder = str(ROOT / "configs" / "icd10cm.yaml"), options.folder / "quick"
        rest = [*QUICK, "--train.epochs", "1", "--evaluate.examples", "0", *rest]
    words = ["--config", options.config, "--evaluate.no-baseline", *rest]
    config = config_of("recluster.py", words)
    set_up_logging(is_speaker=True)
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
    found["gone on, same tree"] = run(same, run_job=run_job)["levels"][-1]
    save_tree_of_features(first, again)
    found["gone on, tree of its features"] = run(again, run_job=run_job)["levels"][-1]
    report(found)


def save_tree_of_features(trained: Config, config: Config) -> None:
    """Build the tree of `config` from the features of a trained run, where it is missing."""
    if Path(tree_url(config), "manifest.json").exists():
        return
    train = ShardedDataset(data_url(config), "train")
    features = sparse.csr_matrix(train.labels_csr().T, dtype=np.float32) @ embed(trained, train)
    tree = build_tree(sparse.csr_matrix(features), config.tree.level_sizes, seed=config.seed)
    settings, fingerprint = tree_settings(config), tree_fingerprint(config, train.manifest.fingerprint)
    facts = {"fingerprint": fingerprint, "config": settings, "imported": model_url(trained)}
    tree.save(tree_url(config), facts)


def embed(trained: Config, train: ShardedDataset) -> np.ndarray:
    """Features of all train texts at the labels' level, float32 [N, D], less their mean."""
    predictor = Predictor.from_checkpoint(trained.output)
    parts = np.array_split(np.arange(len(train)), -(-len(train) // TEXTS_AT_ONCE))
    vectors = np.concatenate([predictor.embed(train.texts(rows)) for rows in track(parts, len(parts), "features")])
    return vectors - vectors.mean(0)


def report(found: dict[str, dict[str, float]]) -> None:
    """Print the table and the closing line."""
    print_metrics(found)
    _, same, again = (one["P@5"] for one in found.values())
    print_closing_line("recluster", same, "P@5, %", again, goal=1.0)


if __name__ == "__main__":
    main()
