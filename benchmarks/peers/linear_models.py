"""Trains a linear extreme classifier on tf-idf in a fresh process and ranks the test texts' labels; has its own venv.

    python linear_models.py parabel|bonsai|xr-linear FOLDER OUT THREADS K

FOLDER holds train_features.npz, train_labels.npz and test_features.npz. The script writes OUT/predicted.npy, int64
[M, K] with -1 where the model names fewer labels, and the model beside it. It prints one line of JSON: seconds of
training and of prediction, bytes of the model, peak bytes of memory.
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from peak_memory import peak_bytes
from scipy import sparse

BEAM = 10


@dataclass(frozen=True)
class Job:
    """Training features [N, F], training labels [N, L] and test features [M, F], all CSR, and the options."""

    name: str
    train: sparse.csr_matrix
    labels: sparse.csr_matrix
    test: sparse.csr_matrix
    out: Path
    threads: int
    k: int

    def no_labels(self) -> np.ndarray:
        """Ranking without labels, int64 [M, K]."""
        return np.full((len(self.test.indptr) - 1, self.k), -1, np.int64)


def main() -> None:
    """Load, train, predict, report."""
    name, folder, out, threads, k = sys.argv[1:]
    names = ("train_features", "train_labels", "test_features")
    train, labels, test = (sparse.load_npz(Path(folder, f"{each}.npz")).tocsr() for each in names)
    job = Job(name, train, labels, test, Path(out), int(threads), int(k))
    predicted, training, prediction = (xr_linear if name == "xr-linear" else omikuji)(job)
    np.save(job.out / "predicted.npy", predicted)
    size = sum(file.stat().st_size for file in (job.out / "model").rglob("*") if file.is_file())
    print(json.dumps({"train_s": training, "predict_s": prediction, "model_bytes": size, "peak_bytes": peak_bytes()}))


def columns_of(matrix: sparse.csr_matrix) -> int:
    """Number of columns of a matrix."""
    _, columns = matrix.shape  # pyright: ignore[reportGeneralTypeIssues]
    return columns


def omikuji(job: Job) -> tuple[np.ndarray, float, float]:
    """Train three trees: Parabel's with two-way splits, or Bonsai's, which are shallow with hundred-way splits."""
    import omikuji as peer  # noqa: PLC0415  # pyright: ignore
    from sklearn.datasets import dump_svmlight_file  # noqa: PLC0415

    settings = peer.Model.default_hyper_param()
    if job.name == "bonsai":
        settings.cluster_balanced, settings.cluster_k, settings.max_depth = False, 100, 3
    kept = np.flatnonzero(np.diff(job.train.indptr))
    file = job.out / "train.txt"
    with file.open("wb") as stream:
        stream.write("{} {} {}\n".format(len(kept), *(columns_of(part) for part in (job.train, job.labels))).encode())
        dump_svmlight_file(job.train[kept], job.labels[kept], stream, multilabel=True)
    began = time.perf_counter()
    model = peer.Model.train_on_data(str(file), settings, n_threads=job.threads)
    training = time.perf_counter() - began
    model.save(str(job.out / "model"))
    model.init_prediction_thread_pool(job.threads)
    predicted = job.no_labels()
    began = time.perf_counter()
    for row in range(len(predicted)):
        own = job.test[row]
        pairs = list(zip(own.indices.tolist(), own.data.tolist()))  # noqa: B905 - other versions of Python run this
        best = model.predict(pairs, beam_size=BEAM, top_k=job.k)
        predicted[row, : len(best)] = [label for label, _ in best]
    return predicted, training, time.perf_counter() - began


def xr_linear(job: Job) -> tuple[np.ndarray, float, float]:
    """Train PECOS's XR-Linear: PIFA, hierarchical k-means, teacher forcing and matcher-aware negatives."""
    from pecos.xmc import Indexer, LabelEmbeddingFactory  # noqa: PLC0415  # pyright: ignore
    from pecos.xmc.xlinear.model import XLinearModel  # noqa: PLC0415  # pyright: ignore

    train, labels, test = (matrix.astype(np.float32) for matrix in (job.train, job.labels, job.test))
    began = time.perf_counter()
    chain = Indexer.gen(
        LabelEmbeddingFactory.create(labels, train, method="pifa"), indexer_type="hierarchicalkmeans",
        threads=job.threads,
    )  # fmt: skip
    model = XLinearModel.train(train, labels, C=chain, negative_sampling_scheme="tfn+man", threads=job.threads)
    training = time.perf_counter() - began
    model.save(str(job.out / "model"))
    began = time.perf_counter()
    found = model.predict(test, beam_size=BEAM, only_topk=job.k, threads=job.threads).tocsr()
    prediction = time.perf_counter() - began
    return ranked(found, job.k), training, prediction


def ranked(found: sparse.csr_matrix, k: int) -> np.ndarray:
    """The k best columns of each row by score, int64 [M, K], with -1 where a row has fewer."""
    predicted = np.full((len(found.indptr) - 1, k), -1, np.int64)
    scores: np.ndarray = np.asarray(found.data)
    for row in range(len(predicted)):
        own = slice(found.indptr[row], found.indptr[row + 1])
        best = np.argsort(np.negative(scores[own]), kind="stable")[:k]
        predicted[row, : len(best)] = found.indices[own][best]
    return predicted


if __name__ == "__main__":
    main()
