"""Predicts with a linear model that linear_models.py has trained, in a fresh process; runs in its own venv.

    python linear_prediction.py parabel|xr-linear FOLDER OUT THREADS K SINGLES

FOLDER holds test_features.npz, and OUT/model is the model. The script prints one line of JSON: texts per second over
the whole split, and the median and the 99th percentile of the seconds of a call for one text, over the first SINGLES
texts.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import sparse

BEAM = 10


def main() -> None:
    """Load, predict, report."""
    name, folder, out, threads, k, singles = sys.argv[1:]
    test = sparse.load_npz(Path(folder, "test_features.npz")).tocsr().astype(np.float32)
    predict = (xr_linear if name == "xr-linear" else omikuji)(Path(out, "model"), int(threads), int(k))
    rows = [test[row] for row in range(int(singles))]
    predict(test[:100])  # warm-up
    began = time.perf_counter()
    predict(test)
    speed = len(test.indptr[1:]) / (time.perf_counter() - began)
    seconds = []
    for row in rows:
        began = time.perf_counter()
        predict(row)
        seconds.append(time.perf_counter() - began)
    p50, p99 = np.percentile(seconds, [50, 99])
    print(json.dumps({"texts_per_s": speed, "p50": float(p50), "p99": float(p99)}))


def omikuji(model: Path, threads: int, k: int) -> Callable[[sparse.csr_matrix], object]:
    """Predictor of omikuji, which takes one text per call, as a list of pairs, and spreads its trees over threads."""
    import omikuji as peer  # noqa: PLC0415  # pyright: ignore

    loaded = peer.Model.load(str(model))
    loaded.init_prediction_thread_pool(threads)

    def predict(features: sparse.csr_matrix) -> object:
        bounds = [int(bound) for bound in features.indptr]
        pairs = list(zip(features.indices.tolist(), features.data.tolist()))  # noqa: B905 - older Pythons run this
        return [
            loaded.predict(pairs[bounds[row] : bounds[row + 1]], beam_size=BEAM, top_k=k)
            for row in range(len(bounds) - 1)
        ]

    return predict


def xr_linear(model: Path, threads: int, k: int) -> Callable[[sparse.csr_matrix], object]:
    """Predictor of PECOS, which is compiled and takes a matrix."""
    from pecos.xmc.xlinear.model import XLinearModel  # noqa: PLC0415  # pyright: ignore

    loaded = XLinearModel.load(str(model), is_predict_only=True)
    return lambda features: loaded.predict(features, beam_size=BEAM, only_topk=k, threads=threads)


if __name__ == "__main__":
    main()
