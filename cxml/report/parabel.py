"""The worker process of the linear baseline: trains omikuji on one file, predicts another, writes an array.

`cxml.report.baseline` runs this script in a separate process, because omikuji prints to the process's output, cannot be
interrupted while it trains, and keeps its model outside Python's memory. It imports no other part of cxml.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

import numpy as np
import omikuji
from scipy import sparse


def train(file: Path, num_trees: int, num_threads: int) -> omikuji.Model:
    """Train omikuji's default Parabel with `num_trees` trees on a file in the XMC repository's format."""
    settings = omikuji.Model.default_hyper_param()
    settings.n_trees = num_trees
    model = omikuji.Model.train_on_data(str(file), settings, n_threads=num_threads)
    model.densify_weights(n_threads=num_threads)  # the same predictions, about twice as fast
    return model


def predict(model: omikuji.Model, features: sparse.csr_matrix, top_k: int, progress: int) -> np.ndarray:
    """The best labels of each row, int64 [N, top_k], padded with -1.

    Writes a newline to the file descriptor `progress` for each row.
    """
    predicted = np.full((len(features.indptr) - 1, top_k), -1, dtype=np.int64)
    for row, (start, end) in enumerate(zip(features.indptr, features.indptr[1:], strict=False)):
        pairs = zip(features.indices[start:end].tolist(), features.data[start:end].tolist(), strict=True)
        best = model.predict(pairs, beam_size=max(10, top_k), top_k=top_k)
        predicted[row, : len(best)] = [label for label, _ in best]
        os.write(progress, b"\n")
    return predicted


def main() -> None:
    """Train, predict, write the array.

    Standard output gets a newline after the training and one per predicted text; standard error gets everything else.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train", type=Path, help="training examples, XMC repository format")
    parser.add_argument("test", type=Path, help="features to predict, scipy .npz")
    parser.add_argument("predicted", type=Path, help="where to write the predicted ids, .npy")
    parser.add_argument("--num-trees", type=int, required=True)
    parser.add_argument("--num-threads", type=int, required=True)
    parser.add_argument("--top-k", type=int, required=True)
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends native code at once
    progress = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    model = train(arguments.train, arguments.num_trees, arguments.num_threads)
    os.write(progress, b"\n")
    model.init_prediction_thread_pool(arguments.num_threads)
    features = sparse.csr_matrix(sparse.load_npz(arguments.test))
    np.save(arguments.predicted, predict(model, features, arguments.top_k, progress))


if __name__ == "__main__":
    main()
