"""Read SciPy's sparse matrices from untrusted `.npz` files.

`scipy.sparse.load_npz` allocates any declared size and truncates fractional label ids to integers. This reader compares
every declared size with the size of the file before it allocates memory, and returns the arrays as stored.
"""

from __future__ import annotations

import io
import math
import zipfile
from dataclasses import dataclass

import numpy as np

from cxml.data.bounds import most_bytes
from cxml.data.ragged import lengths_to_offsets
from cxml.errors import DataError

_ARRAYS = {"csr": ("indptr", "indices"), "csc": ("indptr", "indices"), "coo": ("row", "col")}
_INTEGERS, _NUMBERS = "iu", "biuf"
_MOST_HEADER_CHARACTERS = 1000
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # the methods that NumPy uses


@dataclass(frozen=True)
class StoredMatrix:
    """The stored values of a sparse matrix in row order.

    Attributes:
        shape: rows and columns; neither is negative.
        offsets: int64 [rows + 1], from 0 to nnz.
        columns: integers [nnz], in any order; may be out of range.
        values: numbers [nnz]; may not be finite.
    """

    shape: tuple[int, int]
    offsets: np.ndarray
    columns: np.ndarray
    values: np.ndarray


def read_sparse_npz(content: bytes, url: str, remedy: str, file_bytes: int | None = None) -> StoredMatrix:
    """The matrix in the `.npz` file `content`: CSR, CSC or COO, written by SciPy from a matrix or an array.

    Args:
        content: content of the file.
        url: name of the file in error messages.
        remedy: remedy in error messages.
        file_bytes: size of the compressed file on disk; None for the size of `content`.

    Raises:
        DataError: the file is damaged, has other content, or declares more than a file of its size can contain.
    """
    limit = most_bytes(len(content) if file_bytes is None else file_bytes)
    try:
        return _to_rows(_read_arrays(content, limit), limit)
    except Exception as error:  # broken and hostile files cause any kind of error
        raise DataError(url, f"cannot be read as a SciPy sparse matrix ({error})", remedy) from error


@dataclass(frozen=True)
class _Arrays:
    """The arrays of a file; `first` and `second` are in the order of `_ARRAYS`."""

    kind: str
    shape: tuple[int, int]
    first: np.ndarray
    second: np.ndarray
    values: np.ndarray


def _read_arrays(content: bytes, limit: int) -> _Arrays:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        if len(members) != len(archive.infolist()):
            raise ValueError("an array occurs twice")
        if sum(info.file_size for info in members.values()) > limit:  # also covers overlapping archive members
            raise ValueError("its arrays are declared larger than a file of this size can contain")
        kind = str(_read_member(archive, members["format"], "US", ()).astype(str))
        if kind not in _ARRAYS:
            raise ValueError(f"it contains a {kind[:20]} matrix, expected CSR, CSC or COO")
        rows, columns = _read_member(archive, members["shape"], _INTEGERS, (2,)).tolist()
        first, second = (_read_member(archive, members[name], _INTEGERS) for name in _ARRAYS[kind])
        return _Arrays(kind, (rows, columns), first, second, _read_member(archive, members["data"], _NUMBERS))


def _read_member(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, kinds: str, shape: tuple[int, ...] | None = None
) -> np.ndarray:
    """Read one array, one-dimensional unless `shape` is given, of exactly the size in the archive."""
    name = info.filename
    if info.compress_type not in _ZIP_METHODS:
        raise ValueError(f"{name} has a compression that NumPy does not write")
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        found, _, dtype = read_header[version](stream, max_header_size=_MOST_HEADER_CHARACTERS)
        if dtype.kind not in kinds:
            raise ValueError(f"{name} contains values of type {dtype}")
        if found != shape if shape is not None else len(found) != 1 or found[0] < 0:
            raise ValueError(f"{name} has the shape {found}")
        num_bytes = math.prod(found) * dtype.itemsize
        if num_bytes != info.file_size - stream.tell():
            raise ValueError(f"the size of {name} differs from its header")
        return np.frombuffer(stream.read(num_bytes), dtype).reshape(found)


def _to_rows(arrays: _Arrays, limit: int) -> StoredMatrix:
    rows, columns = arrays.shape
    if rows < 0 or columns < 0:
        raise ValueError(f"its shape is {rows} x {columns}")
    if len(arrays.second) != len(arrays.values):
        raise ValueError("its arrays are inconsistent: the numbers of values and indices differ")
    if arrays.kind == "csr":
        offsets = _offsets(arrays.first, rows, len(arrays.values))
        return StoredMatrix(arrays.shape, offsets, arrays.second, arrays.values)
    if arrays.kind == "csc":
        lengths = np.diff(_offsets(arrays.first, columns, len(arrays.values)))
        row_of, column_of = arrays.second, np.repeat(np.arange(columns), lengths)
    else:
        row_of, column_of = arrays.first, arrays.second
    if len(row_of) != len(column_of) or (len(row_of) and not 0 <= row_of.min() <= row_of.max() < rows):
        raise ValueError("its arrays are inconsistent: not every value has a row")
    if rows * np.dtype(np.int64).itemsize > limit:
        raise ValueError(f"{rows} rows are more than a file of this size can contain")
    order = np.argsort(row_of, kind="stable")
    offsets = lengths_to_offsets(np.bincount(row_of.astype(np.int64), minlength=rows))
    return StoredMatrix(arrays.shape, offsets, column_of[order], arrays.values[order])


def _offsets(stored: np.ndarray, count: int, num_values: int) -> np.ndarray:
    """Offsets int64 [count + 1]. Raises `ValueError` if they are not valid."""
    offsets = stored.astype(np.int64)
    if len(offsets) != count + 1 or offsets[0] != 0 or offsets[-1] != num_values or (np.diff(offsets) < 0).any():
        raise ValueError("its arrays are inconsistent: the offsets do not increase from 0 to the number of values")
    return offsets
