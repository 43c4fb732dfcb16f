"""The raw form of the Extreme Classification Repository's data sets.

`train_raw_texts.txt` and `test_raw_texts.txt`: UTF-8, one text per line. `Y.trn.npz` and `Y.tst.npz`: SciPy CSR
matrices [N, L] of the labels. `Y.txt`, if there: one label name per line.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from typing import Any

import numpy as np
from scipy import sparse

from cxml import storage
from cxml.errors import DataError
from data_tools.formats.raw import RawDataset, RawSplit

_FILES = {"train": ("train_raw_texts.txt", "Y.trn.npz"), "test": ("test_raw_texts.txt", "Y.tst.npz")}
_NAMES = "Y.txt"
_SAVE_AGAIN = "Write it again with scipy.sparse.save_npz from a CSR matrix of texts x labels."


def read(folder: str) -> RawDataset:
    """Read and check all files of `folder`, a path or fsspec URL.

    Raises:
        DataError: a file is missing or broken, or two files disagree; names the file, the line and the remedy.
    """
    splits = {name: _read_split(folder, *files) for name, files in _FILES.items()}
    num_labels, test_labels = (splits[name].labels.get_shape()[1] for name in ("train", "test"))
    if test_labels != num_labels:
        problem = f"has {test_labels} label columns, {_FILES['train'][1]} has {num_labels}"
        raise DataError(storage.join(folder, _FILES["test"][1]), problem, "Both need a column for every label.")
    return RawDataset(splits, _read_names(storage.join(folder, _NAMES), num_labels))


def facts(folder: str) -> dict[str, Any]:
    """Size and SHA-256 of each file, which settle the content. Raises `DataError` where one is missing."""
    files = {}
    for name in (*(file for pair in _FILES.values() for file in pair), _NAMES):
        url = storage.join(folder, name)
        if name != _NAMES or storage.exists(url):
            _require_file(url)
            files[name] = {"bytes": storage.size(url), "sha256": storage.sha256(url)}
    return {"files": files}


def _read_split(folder: str, text_file: str, label_file: str) -> RawSplit:
    texts = _read_lines(storage.join(folder, text_file))
    label_url = storage.join(folder, label_file)
    labels = _read_labels(label_url)
    num_rows = labels.get_shape()[0]
    if num_rows != len(texts):
        problem = f"has {num_rows} rows, but {text_file} has {len(texts)} lines"
        raise DataError(label_url, problem, "Text and label files need one line and one row for each text.")
    empty = np.flatnonzero(np.diff(labels.indptr) == 0)
    if len(empty):
        row = int(empty[0])
        problem = f"this row has no label ({len(empty)} such rows; the text is {texts[row][:60]!r})"
        raise DataError(label_url, problem, f"Remove those rows and their lines in {text_file}.", line=row + 1)
    return RawSplit(texts, labels)


def _read_lines(url: str) -> list[str]:
    """Lines of a UTF-8 file. Only a newline ends a line: texts may hold other characters that Python splits at."""
    _require_file(url)
    content = storage.read_bytes(url).removeprefix(b"\xef\xbb\xbf")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problem = f"not valid UTF-8 ({error.reason}: 0x{content[error.start]:02x})"
        raise DataError(url, problem, "Convert the file, e.g. with iconv -t UTF-8.", line=line) from error
    lines = text.removesuffix("\n").split("\n")
    lines = [line.removesuffix("\r") for line in lines]
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise DataError(url, "an empty text", "Remove the line and the same row of the label file.", line=number)
    return lines


def _read_labels(url: str) -> sparse.csr_matrix:
    """The label matrix with sorted, unique indices and no stored zeros."""
    _require_file(url)
    try:
        matrix = sparse.load_npz(io.BytesIO(storage.read_bytes(url)))
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error, TypeError) as error:
        raise DataError(url, f"no SciPy sparse matrix can be read from it ({error})", _SAVE_AGAIN) from error
    if matrix.format != "csr":
        raise DataError(url, f"holds a {matrix.format} matrix, CSR was expected", _SAVE_AGAIN)
    num_labels = matrix.get_shape()[1]
    outside = np.flatnonzero((matrix.indices < 0) | (matrix.indices >= num_labels))
    if len(outside):
        row = int(np.searchsorted(matrix.indptr, outside[0], side="right"))
        problem = f"label id {matrix.indices[outside[0]]} is not in 0..{num_labels - 1}"
        raise DataError(url, problem, _SAVE_AGAIN, line=row)
    try:
        matrix.check_format(full_check=True)
    except ValueError as error:
        raise DataError(url, f"its CSR arrays contradict each other ({error})", _SAVE_AGAIN) from error
    labels = sparse.csr_matrix(matrix)
    labels.sum_duplicates()
    labels.eliminate_zeros()
    return labels


def _read_names(url: str, num_labels: int) -> list[str]:
    if not storage.exists(url):
        return [str(label) for label in range(num_labels)]
    names = _read_lines(url)
    if len(names) != num_labels:
        problem = f"has {len(names)} lines, but the label files have {num_labels} columns"
        raise DataError(url, problem, "It needs one name per label; remove the file to use the ids as names.")
    return names


def _require_file(url: str) -> None:
    if not storage.exists(url):
        needed = ", ".join(file for pair in _FILES.values() for file in pair)
        raise DataError(url, "is missing", f"data.source.path must hold {needed}.")
