"""The linear baseline: omikuji's implementation of Parabel (Prabhu et al., WWW 2018), on tf-idf features."""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import cast

import numpy as np
from scipy import sparse

from cxml import extras
from cxml.console import counted
from cxml.errors import CxmlError
from cxml.operating_system import KILL, ending_with_parent
from cxml.progress import track

_log = logging.getLogger(__name__)

_WORKER = Path(__file__).with_name("parabel.py")


def require_baseline() -> None:
    """Check that the packages of `evaluate.baseline` are installed.

    Raises:
        ConfigError: a package is missing.
    """
    extras.require("evaluate.baseline", True, "omikuji", "sklearn", otherwise="set it to false")


def linear_baseline(
    train_features: sparse.csr_matrix,
    train_labels: sparse.csr_matrix,
    test_features: sparse.csr_matrix,
    top_k: int,
    *,
    num_trees: int = 3,
    num_threads: int = 2,
) -> np.ndarray:
    """Train on the training split and rank the labels of each test text.

    omikuji draws its clusters at random without a seed, so results vary between runs: by up to .3 percentage points
    over four runs on WordNet's first 6,000 test texts.

    Args:
        train_features: float [N, F], tf-idf; empty rows are skipped.
        train_labels: [N, L], non-zero where a label is true.
        test_features: float [M, F].
        top_k: labels per text, K.
        num_trees: trees of the ensemble; 3 is omikuji's default and Parabel's.
        num_threads: CPU threads.

    Returns:
        int64 [M, K], label ids, best first, padded with -1.

    Raises:
        ConfigError: omikuji or scikit-learn is not installed.
        CxmlError: training or prediction failed. The message ends with omikuji's last output.
    """
    require_baseline()
    with tempfile.TemporaryDirectory(prefix="cxml-baseline-") as name:
        train, test, predicted = (Path(name) / file for file in ("train.txt", "test.npz", "predicted.npy"))
        _log.info("Linear baseline: omikuji trains on %s", counted(len(train_features.indptr) - 1, "text"))
        _write_training_file(train, train_features, train_labels)
        sparse.save_npz(test, sparse.csr_matrix(test_features), compressed=False)
        settings = {"num-trees": num_trees, "num-threads": num_threads, "top-k": top_k}
        options = [f"--{option}={value}" for option, value in settings.items()]
        _run_worker([str(train), str(test), str(predicted), *options], len(test_features.indptr) - 1)
        return np.load(predicted)


def _write_training_file(path: Path, features: sparse.csr_matrix, labels: sparse.csr_matrix) -> None:
    """The XMC repository's sparse format: a line `rows features labels`, then `label,label feature:value ...`."""
    from sklearn.datasets import dump_svmlight_file  # noqa: PLC0415 - an optional package

    kept = np.flatnonzero(np.diff(features.indptr))
    (_, num_features), (_, num_labels) = (cast(tuple[int, int], matrix.shape) for matrix in (features, labels))
    with path.open("wb") as file:
        file.write(f"{len(kept)} {num_features} {num_labels}\n".encode())
        dump_svmlight_file(features[kept], labels[kept], file, multilabel=True)


def _run_worker(arguments: list[str], num_texts: int) -> None:
    """Run the worker process, and show the progress of its predictions after the training."""
    # -P keeps the worker's folder off its import path, where our module names would hide other modules.
    command = [*ending_with_parent(KILL), sys.executable, "-P", str(_WORKER), *arguments]
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as worker:
        assert worker.stdout is not None
        try:
            is_trained = worker.stdout.readline()
            if is_trained:
                for _ in track(worker.stdout, total=num_texts, description="Linear baseline, predicting"):
                    pass
        except BaseException:
            worker.kill()
            raise
        if worker.wait() != 0:
            log.seek(0)
            last_words = log.read()[-1000:].decode(errors="replace").strip()
            raise CxmlError(f"the linear baseline failed (exit code {worker.returncode}):\n{last_words}")
