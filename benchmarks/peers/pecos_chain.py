"""Saves PECOS's cluster chain for label features; runs in PECOS's venv.

python pecos_chain.py FEATURES.npz OUT_FOLDER MAX_LEAF_LABELS SEED
"""

import sys

from pecos.xmc import Indexer  # pyright: ignore
from scipy import sparse


def main() -> None:
    """Load, cluster two ways, save."""
    features, out, leaf, seed = sys.argv[1:]
    chain = Indexer.gen(
        sparse.load_npz(features).tocsr(), indexer_type="hierarchicalkmeans", nr_splits=2, max_leaf_size=int(leaf),
        spherical=True, seed=int(seed), threads=2,
    )  # fmt: skip
    chain.save(out)


if __name__ == "__main__":
    main()
