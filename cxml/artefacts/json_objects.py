"""Read untrusted JSON objects within limits that are far above the project's own files.

`read_records` reads the records of a run: one object per line of a file that may grow while it is read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from cxml import storage
from cxml.artefacts.files import local_file
from cxml.errors import DataError

# The manifest of a checkpoint of 10 TB has about 2 million values in 50 MB.
MOST_JSON_BYTES = 64 << 20
_MOST_VALUES = 4_000_000
_MOST_NESTING = 32
_LEAST_INT, _MOST_INT = -(1 << 63), (1 << 64) - 1


def read_object(folder: str, name: str, remedy: str) -> dict[str, Any]:
    """The JSON object in the file `name` of the folder at the URL `folder`.

    Raises:
        FileNotFoundError: the file does not exist.
        DataError: it is a link or not a regular file, or see `parse_object`.
    """
    local_file(folder, name, remedy)
    return read_json(storage.join(folder, name), remedy)


def read_json(url: str, remedy: str) -> dict[str, Any]:
    """The JSON object in a file of a run, which may be a link.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: see `parse_object`.
    """
    size = storage.size(url)
    if size > MOST_JSON_BYTES:
        raise DataError(url, f"has {size} bytes, more than the limit of {MOST_JSON_BYTES}", remedy)
    return parse_object(storage.read_bytes(url), url, remedy)


def parse_object(content: bytes, file: str, remedy: str) -> dict[str, Any]:
    """The JSON object in `content`.

    Raises:
        DataError: `content` is not a JSON object in UTF-8, a key occurs twice, a number is NaN or has more than 64
            bits, or values are too many or nested too deeply.
    """
    if content.count(b",") + content.count(b"[") + content.count(b"{") > _MOST_VALUES:
        raise DataError(file, f"has more than {_MOST_VALUES} values", remedy)
    try:
        value = json.loads(
            content.decode(), object_pairs_hook=_unique, parse_int=_int, parse_float=_float, parse_constant=_constant
        )
        _check_nesting_and_text(value, _MOST_NESTING)
    except RecursionError as error:
        raise DataError(file, "is nested too deeply", remedy) from error
    except ValueError as error:
        raise DataError(file, f"is not valid JSON ({str(error)[:200]})", remedy) from error
    if not isinstance(value, dict):
        raise DataError(file, f"expected a JSON object, found {type(value).__name__}", remedy)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return values


def _int(text: str) -> int:
    value = int(text) if len(text) <= len(str(_LEAST_INT)) else _MOST_INT + 1
    if not _LEAST_INT <= value <= _MOST_INT:
        raise ValueError(f"an integer has more than 64 bits: {text[:40]}")
    return value


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"a number is out of range: {text[:40]}")
    return value


def _constant(text: str) -> float:
    if text == "NaN":
        raise ValueError("a number is NaN")
    return float(text)  # the configs of some encoders contain an infinite limit


def _check_nesting_and_text(value: object, levels: int) -> None:
    """Raise an error for values nested more deeply than `levels`, and for strings with lone surrogates."""
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, dict | list):
        if levels == 0:
            raise ValueError(f"values are nested more than {_MOST_NESTING} levels deep")
        if isinstance(value, dict):
            for key in value:
                key.encode()
        for item in value.values() if isinstance(value, dict) else value:
            if not isinstance(item, int | float):
                _check_nesting_and_text(item, levels - 1)


def read_records(url: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the lines of a file of records and their values, up to the first incomplete or damaged line."""
    content = storage.read_bytes(url) if storage.exists(url) else b""
    for line in content.splitlines(keepends=True):
        try:
            text = line.decode()
            record = json.loads(text)
        except (ValueError, RecursionError):
            return
        are_numbers = isinstance(record, dict) and all(
            isinstance(record.get(name, 0), int | float) for name in ("step", "epoch")
        )
        if not are_numbers or not isinstance(record.get("kind"), str):
            return
        yield text, record
