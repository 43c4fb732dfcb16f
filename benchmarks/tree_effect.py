"""Measures the effect of the label tree: the same model trained on cxml's label tree and on PECOS's.

    python benchmarks/tree_effect.py [--quick] [--seeds 0 1 2] [--config FILE] [OPTIONS of python -m cxml.train ...]

Both runs of a seed share data, seed and settings. The second takes its levels from PECOS's hierarchical k-means over
PIFA features, which is PECOS's way to make trees, with the same seed, imported as by `python -m
cxml.data_tools.import_tree`. cxml's tree has the settings of the config; without settings of its own it is made from
the same features. Unless options say otherwise, classifiers start fresh and labels are scored on shortlists, so that
the tree matters. Finished runs are not repeated, so seeds can run separately, side by side. The benchmark prints the
mean metrics of both, their difference with its standard error over the seeds, and one line of JSON about P@5.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import scipy.stats
from rich.console import Console
from rich.table import Table
from scipy import sparse
from support.closing_line import print_closing_line
from support.configs import config_of
from support.peers import PECOS, PEERS_FOLDER, peer_python

from cxml.config import Config
from cxml.console import set_up_logging
from cxml.data import ShardedDataset, data_url
from cxml.pipeline import run
from cxml.preparation import prepare
from cxml.preparation.tree_import import import_tree
from cxml.tree import features_of_labels

ROOT = Path(__file__).parent.parent
WORKER = Path(__file__).parent / "peers" / "pecos_chain.py"
ON_SHORTLISTS = [
    "--head.candidates", "shortlist", "--model.classifier-start", "fresh", "--train.name-texts", "",
]  # fmt: skip
QUICK = [
    "--data.source.chapters", "3", "--tree.level-sizes", "8", "64", "--train.epochs", "2", "--optim.decay-epochs", "1",
]  # fmt: skip


def main() -> None:
    """Parse, train twice, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small chapter of ICD-10-CM: under 50 s")
    parser.add_argument("--config", default=str(ROOT / "configs" / "icd10cm.yaml"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of the trees and trainings")
    parser.add_argument("--folder", default="runs/benchmarks/tree_effect", help="folder of the runs")
    parser.add_argument("--peers", type=Path, default=PEERS_FOLDER, help="folder of the venvs")
    options, rest = parser.parse_known_args()
    words = [
        "--config",
        options.config,
        "--evaluate.no-baseline",
        *ON_SHORTLISTS,
        *(QUICK if options.quick else []),
        *rest,
    ]
    config = config_of("tree_effect.py", words)
    folder = Path(options.folder) / (Path(options.config).stem + ("-quick" if options.quick else ""))
    set_up_logging(is_main=True)
    python = peer_python(options.peers, "pecos", PECOS)
    config = dataclasses.replace(config, output=str(folder))
    prepare(config)
    report([run_both(config, folder / f"seed{seed}", python, seed) for seed in options.seeds])


def run_both(config: Config, folder: Path, python: str, seed: int) -> dict[str, dict[str, float]]:
    """Metrics of the last level with each tree."""
    data = dataclasses.replace(config.data, directory=data_url(config))
    ours = dataclasses.replace(config, data=data, seed=seed, output=str(folder / "cxml"))
    theirs = dataclasses.replace(ours, output=str(folder / "pecos"))
    import_peers_tree(theirs, folder, python)
    return {"cxml": run(ours)["levels"][-1], "PECOS": run(theirs)["levels"][-1]}


def import_peers_tree(theirs: Config, folder: Path, python: str) -> None:
    """Make PECOS's tree and import it, if it is missing."""
    if (Path(theirs.output) / "tree" / "manifest.json").exists():
        return
    plain = dataclasses.replace(theirs, tree=dataclasses.replace(theirs.tree, walk_length=0, name_features="none"))
    features = features_of_labels(plain, ShardedDataset(data_url(theirs), "train"))
    folder.mkdir(parents=True, exist_ok=True)
    file, chain = folder / "features.npz", folder / "chain"
    sparse.save_npz(file, sparse.csr_matrix(features, dtype=np.float32))
    leaf = math.ceil(len(features.indptr) / theirs.tree.sizes[-1])
    subprocess.run([python, str(WORKER), str(file), str(chain), str(leaf), str(theirs.seed)], check=True)
    import_tree(theirs, str(chain))


def report(by_seed: list[dict[str, dict[str, float]]]) -> None:
    """Print the table and the line of JSON."""
    table = Table("", "cxml", "PECOS", "difference", "its standard error", title_justify="left")
    table.title = f"Metrics by the tree trained on, {len(by_seed)} seeds"
    means = {}
    for name in by_seed[0]["cxml"]:
        found = np.array([[seed[tree][name] for tree in ("cxml", "PECOS")] for seed in by_seed])
        ours, theirs = means[name] = found.mean(axis=0)
        error = scipy.stats.sem(found[:, 0] - found[:, 1]) if len(found) > 1 else np.nan
        table.add_row(name, f"{ours:.2f}", f"{theirs:.2f}", f"{ours - theirs:+.2f}", f"{error:.2f}")
    Console().print(table)
    ours, theirs = map(float, means["P@5"])
    print_closing_line("tree effect", ours, "P@5, %", theirs, goal=1.0)


if __name__ == "__main__":
    sys.exit(main())
