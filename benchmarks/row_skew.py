"""Measures how evenly label rows and their use spread over ranks: round-robin leaves against blocks of adjacent leaves.

    python benchmarks/row_skew.py [--quick] [--ranks 2 8 64] [--clusters 512 4096]

The labels are those of ICD-10-CM in their tree. The use of a rank is the sum over its labels of the number of training
texts: for these texts its rows are read in every epoch, whatever else is shortlisted. The benchmark prints the fullest
rank's share divided by the mean, where 1 is even. The last line is JSON: the use of round-robin rows against that of
rows in blocks, at the most ranks.
"""

from __future__ import annotations

import argparse

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from support.closing_line import print_closing_line

from cxml.config import SourceConfig
from cxml.formats import read_source
from cxml.parallel import RowLayout
from cxml.tree import build_tree, pifa


def main() -> None:
    """Parse, cluster, count, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one chapter: under 50 s on two cores")
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 8, 64])
    parser.add_argument("--clusters", type=int, nargs="+", default=[512, 4096])
    options = parser.parse_args()
    if options.quick:
        options.clusters = [64, 512]
    source = SourceConfig(kind="icd10cm", chapters=("19",) if options.quick else ())
    raw = read_source(source).splits["train"]
    features = sparse.csr_matrix(TfidfVectorizer(max_features=20_000).fit_transform(raw.texts), dtype=np.float32)
    tree = build_tree(pifa(raw.labels, features, 100), options.clusters)
    use = np.bincount(raw.labels.indices, minlength=tree.num_labels)[tree.label_order]
    table = Table(title=f"{tree.num_labels:,} labels, fullest rank over the mean", title_justify="left")
    for heading in ("ranks", "rows, dealt", "use, dealt", "use, in blocks"):
        table.add_column(heading, justify="right")
    skews: list[float] = []
    for num_ranks in options.ranks:
        layouts = [RowLayout.round_robin(np.asarray(tree.offsets[-1]), rank, num_ranks) for rank in range(num_ranks)]
        rows = np.array([layout.num_rows for layout in layouts])
        dealt = np.array([use[layout.positions()].sum() for layout in layouts])
        leaves = np.linspace(0, len(tree.offsets[-1]) - 1, num_ranks + 1).astype(np.int64)
        blocks = np.add.reduceat(use, tree.offsets[-1][leaves[:-1]])
        skews = [float(counts.max() / counts.mean()) for counts in (rows, dealt, blocks)]
        table.add_row(str(num_ranks), *(f"{skew:.2f}" for skew in skews))
    Console().print(table)
    _, dealt, blocks = skews
    print_closing_line("row_skew, dealt", dealt, "fullest rank over the mean", blocks, goal=1, lower_is_better=True)


if __name__ == "__main__":
    main()
