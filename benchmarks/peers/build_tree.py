"""Builds one label tree in a fresh process and prints its time and memory; runs in any venv.

    python build_tree.py cxml|pecos FEATURES.npz OUT.npy THREADS SEED

The builder splits two ways down to leaves of at most 16 labels. A tree over a few labels is built before the clock
starts, so that loading compiled code does not count for either builder. The output file holds the cluster of each label
at each level, coarse to fine, int32 [levels, L]. One line of JSON is printed: seconds, CPU seconds of all threads, and
bytes (peak of the resident memory above what the features take).
"""

import ctypes
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import sparse

LEAF_LABELS = 16
WARM_UP_LABELS = 20_000  # enough for cxml to split the root with all threads


def main() -> None:
    """Load, warm up, build, report."""
    builder, features_file, out_file, threads, seed = sys.argv[1:]
    features = sparse.load_npz(features_file).tocsr()
    build = {"cxml": prepare_cxml, "pecos": prepare_pecos}[builder](int(threads), int(seed))
    build(features[:WARM_UP_LABELS])
    ctypes.CDLL(None).malloc_trim(0)  # returns the memory of the warm-up
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident("VmRSS")
    start, start_cpu = time.perf_counter(), time.process_time()
    clusters_of = build(features)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
    peak = resident("VmHWM") - before
    np.save(out_file, clusters_of())
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "bytes": peak}))


def resident(field: str) -> int:
    """Bytes that the kernel counts for this process under `field`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))


def prepare_cxml(threads: int, seed: int) -> Callable:
    """Builder of this project."""
    from cxml.tree import build_tree  # noqa: PLC0415 - not there in the peer's venv

    def build(features: sparse.csr_matrix) -> Callable[[], np.ndarray]:
        num_labels = len(features.indptr) - 1
        levels = int(np.ceil(np.log2(num_labels / LEAF_LABELS)))
        tree = build_tree(features, [2**level for level in range(1, levels + 1)], seed=seed, threads=threads)

        return lambda: np.array([tree.cluster_of_label(level) for level in range(levels)])

    return build


def prepare_pecos(threads: int, seed: int) -> Callable:
    """PECOS's spherical hierarchical k-means in C++, with its own stopping rule."""
    from pecos.xmc import Indexer  # noqa: PLC0415 - only there in the peer's venv  # pyright: ignore

    def build(features: sparse.csr_matrix) -> Callable[[], np.ndarray]:
        chain = Indexer.gen(
            features, indexer_type="hierarchicalkmeans", nr_splits=2, max_leaf_size=LEAF_LABELS, spherical=True,
            seed=seed, threads=threads,
        )  # fmt: skip

        def clusters_of() -> np.ndarray:
            levels = [chain[len(chain) - 1].tocsr().indices]
            for level in range(len(chain) - 2, 0, -1):
                levels.insert(0, chain[level].tocsr().indices[levels[0]])
            return np.array(levels, np.int32)

        return clusters_of

    return build


if __name__ == "__main__":
    main()
