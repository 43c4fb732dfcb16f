"""What a tree is worth: the same model trained on cxml's label tree and on PECOS's, made from the same label features.

    python benchmarks/tree_effect.py [--quick] [--config configs/icd10cm.yaml] [OPTIONS of python -m cxml.train ...]

Both runs share data, seeds and settings; the second takes its levels from PECOS's hierarchical k-means, imported as
`python -m data_tools.import_tree` does. Prints the metrics of both and one line of JSON about P@5.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import sparse
from support.closing_line import print_closing_line
from support.peers import PECOS, PEERS_FOLDER, peer_python

from cxml.cli import Settings, parse_command
from cxml.config import Config
from cxml.console import set_up_logging
from cxml.data import ShardedDataset, data_url
from cxml.pipeline import run
from cxml.tree import features_of_labels
from data_tools.preparation import prepare
from data_tools.tree_import import import_tree

ROOT = Path(__file__).parent.parent
WORKER = Path(__file__).parent / "peers" / "pecos_chain.py"
QUICK = [
    "--data.source.chapters",
    "3",
    "--tree.level-sizes",
    "8",
    "64",
    "--train.epochs",
    "4",
    "--optim.decay-epochs",
    "1",
]


@dataclass(frozen=True, kw_only=True)
class TreeEffect:
    """Train one config on two label trees."""

    settings: Settings


def main() -> None:
    """Parse, train twice, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small chapter of ICD-10-CM: under 50 s")
    parser.add_argument("--config", default=str(ROOT / "configs" / "icd10cm.yaml"))
    parser.add_argument("--folder", default="runs/benchmarks/tree_effect", help="where the runs stay")
    parser.add_argument("--peers", type=Path, default=PEERS_FOLDER, help="where venvs stay")
    options, rest = parser.parse_known_args()
    words = ["--config", options.config, "--evaluate.no-baseline", *(QUICK if options.quick else []), *rest]
    config = parse_command(TreeEffect, "tree_effect.py", words).settings
    folder = Path(options.folder) / (Path(options.config).stem + ("-quick" if options.quick else ""))
    set_up_logging(is_speaker=True)
    ours = dataclasses.replace(config, output=str(folder / "cxml"))
    prepare(ours)
    theirs = with_peers_tree(ours, folder, peer_python(options.peers, "pecos", PECOS))
    report({"cxml": run(ours)["levels"][-1], "PECOS": run(theirs)["levels"][-1]})


def with_peers_tree(ours: Config, folder: Path, python: str) -> Config:
    """The same run on PECOS's tree, which is made and imported where it is missing."""
    data = dataclasses.replace(ours.data, directory=data_url(ours))
    theirs = dataclasses.replace(ours, data=data, output=str(folder / "pecos"))
    if not (folder / "pecos" / "tree" / "manifest.json").exists():
        features = features_of_labels(ours, ShardedDataset(data_url(ours), "train"))
        file, chain = folder / "features.npz", folder / "chain"
        sparse.save_npz(file, sparse.csr_matrix(features, dtype=np.float32))
        leaf = math.ceil(len(features.indptr) / ours.tree.level_sizes[-1])
        subprocess.run([python, str(WORKER), str(file), str(chain), str(leaf), str(ours.seed)], check=True)
        import_tree(theirs, str(chain))
    return theirs


def report(metrics: dict[str, dict[str, float]]) -> None:
    """Print both and the line of JSON."""
    table = Table("", *metrics, title="Trained on the tree of", title_justify="left")
    for name in metrics["cxml"]:
        table.add_row(name, *(f"{found[name]:.2f}" for found in metrics.values()))
    Console().print(table)
    print_closing_line("tree effect", metrics["cxml"]["P@5"], "P@5, %", metrics["PECOS"]["P@5"], goal=1.0)


if __name__ == "__main__":
    sys.exit(main())
