"""Validation of a `Predictor`'s arguments: conversion to plain strings, integers and devices, or an error."""

from __future__ import annotations

import contextlib
import math
import operator
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, get_args

import numpy as np
import torch
from scipy import sparse

from cxml.config import PredictionPrecision
from cxml.data import Ragged
from cxml.data.dataset import indicators
from cxml.errors import ConfigError

_WANTED = 'Give a sequence of strings, one per text, such as ["first text", "second text"]'
_SHORT = 80
_NAMES_WANTED = 'Give for each text a label name or a list of them, such as [["shoes", "sports"], ["hats"]]'
_LABELS_WANTED = "Give ids or names of the model's labels"


def as_url(value: object, field: str = "url") -> str:
    """A path or URL as a string.

    Raises:
        ConfigError: it is neither a string nor a `Path`, is empty, or is not a valid file name.
    """
    url = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(url, str) or not url or not _can_name_a_file(url):
        raise ConfigError(field, _shown(value), "must be a path or URL", "Give a string or a pathlib.Path.")
    return url


def as_texts(texts: object) -> list[str]:
    """Texts as a list of plain strings.

    Args:
        texts: N strings in a list, tuple, generator, NumPy array [N], pandas Series or Arrow array, also chunked or
            dictionary-encoded.

    Raises:
        ConfigError: it is not such a sequence, or an item is not a string; names the item's position.
    """
    if isinstance(texts, Set):
        raise ConfigError("texts", type(texts), "is a set, which has no order", f"{_WANTED}.")
    found = list(_items(texts, "texts", f"{_WANTED}."))
    for position, text in enumerate(found):
        if type(text) is not str:
            found[position] = _plain(text, f"texts[{position}]")
    return found


def refuse_surrogates(texts: Sequence[str]) -> None:
    """Raise an error for the first text with half of a surrogate pair, which is not valid Unicode.

    Raises:
        ConfigError: a text is invalid; names its position and that of the character.
    """
    for position, text in enumerate(texts):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            problem = f"character {error.start} is {text[error.start]!r}, half of a surrogate pair"
            remedy = 'Correct the text, or replace it: text.encode("utf-8", "replace").decode().'
            raise ConfigError(f"texts[{position}]", _shown(text), problem, remedy) from error


def as_whole_number(field: str, value: object, least: int = 1) -> int:
    """Convert a Python or NumPy integer to a plain `int`.

    Raises:
        ConfigError: it is not an integer (or is a boolean), or is below `least`.
    """
    number = _index(value)
    if number is None:
        raise ConfigError(field, _shown(value), "must be an integer", f"Give {least} or more.")
    if number < least:
        raise ConfigError(field, number, f"must be at least {least}", f"Give {least} or more.")
    return number


def as_finite(field: str, value: object) -> float:
    """A number that is neither infinite nor NaN.

    Raises:
        ConfigError: it is not a finite number.
    """
    number = math.nan
    if isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):  # of an integer beyond the floating-point range
            number = float(value)
    if not math.isfinite(number):
        raise ConfigError(field, _shown(value), "must be a finite number", "Give a number such as 0.5.")
    return number


def as_beam(beam: object, num_levels: int) -> tuple[int, ...]:
    """Beam width per level above the labels; an empty tuple if not given.

    Raises:
        ConfigError: it does not have a number of 1 or more for each level.
    """
    problem, remedy = f"the tree has {num_levels} levels above the labels", "Give a number of 1 or more for each."
    sizes = [] if beam is None else [_index(size) for size in _items(beam, "beam", remedy)]
    wide = tuple(size for size in sizes if size is not None and size >= 1)
    if len(wide) != len(sizes) or (sizes and len(sizes) != num_levels):
        raise ConfigError("beam", beam, problem, remedy)
    return tuple(min(size, sys.maxsize) for size in wide)  # PyTorch counts in 64 bits


def as_excluded(excluded: Mapping[int, Sequence[int]] | None, num_texts: int, num_labels: int) -> dict[int, list[int]]:
    """Validate the labels to exclude per text.

    Raises:
        ConfigError: a key is not a position of a text, or a value is not a sequence of label ids.
    """
    if excluded is None:
        return {}
    remedy = "Give label ids by the position of their text, such as {0: [17, 42]}."
    if not isinstance(excluded, Mapping):
        raise ConfigError("excluded", type(excluded), "must be a mapping", remedy)
    checked = {}
    for row, labels in excluded.items():
        position = _index(row)
        if position is None or not 0 <= position < num_texts:
            raise ConfigError("excluded", _shown(row), f"there are {num_texts} texts, numbered from 0", remedy)
        ids = [(label, _index(label)) for label in _items(labels, f"excluded[{position}]", remedy)]
        for label, label_id in ids:
            if label_id is None or not 0 <= label_id < num_labels:
                problem = f"is not a label id: there are {num_labels} labels, numbered from 0"
                raise ConfigError(f"excluded[{position}]", _shown(label), problem, remedy)
        checked[position] = [label_id for _, label_id in ids if label_id is not None]
    return checked


def as_label_ids(labels: object, names: Sequence[str], known: np.ndarray) -> np.ndarray:
    """Sorted unique ids, int64, of labels given by id or name.

    Args:
        labels: ids and names, in any order.
        names: name of each label id.
        known: sorted allowed ids.

    Raises:
        ConfigError: there are no labels, one is unknown, or a name belongs to several labels.
    """
    items = _items(labels, "labels", f"{_LABELS_WANTED}, such as [17, 42].")
    given = [str.__str__(label) if isinstance(label, str) else label for label in items]
    if not given:
        raise ConfigError("labels", given, "is empty", f"{_LABELS_WANTED}: at least one.")
    wanted: set[str] = {label for label in given if isinstance(label, str)}
    ids_by_name: dict[object, list[int]] = {}
    for label_id in known.tolist() if wanted else ():
        if names[label_id] in wanted:
            ids_by_name.setdefault(names[label_id], []).append(label_id)
    allowed = set(known.tolist())
    found = set()
    for position, label in enumerate(given):
        ids = ids_by_name.get(label, []) if isinstance(label, str) else [_index(label)]
        if len(ids) > 1:
            problem = f"labels {', '.join(map(str, ids))} have this name"
            raise ConfigError(f"labels[{position}]", label, problem, "Give the id of the label instead.")
        if not ids or ids[0] not in allowed:
            raise ConfigError(f"labels[{position}]", _shown(label), "is not a label of this model", _remedy_for(label))
        found.add(ids[0])
    return np.array(sorted(found), np.int64)


def as_names_of_texts(labels: object, num_texts: int) -> list[list[str]]:
    """Label names of each text, given as several names or one; numbers become names, as in training.

    Args:
        labels: a list, generator, NumPy array [N] or [N, m], pandas Series or Arrow array.
        num_texts: N.

    Raises:
        ConfigError: `labels` is not a flat sequence, is empty, or does not have N items.
        ConfigError: an item is not a name or a list of names. The message gives the position of the item.
    """
    values = labels.tolist() if isinstance(labels, np.ndarray) else labels
    items = _items(values, "labels", f"{_NAMES_WANTED}.")
    names = [_names(each, f"labels[{position}]") for position, each in enumerate(items)]
    if len(names) != num_texts or not names:
        problem = f"has labels for {len(names)} texts, but there are {num_texts} texts"
        raise ConfigError("labels", f"{len(names)} items", problem, "Give the labels of each text.")
    return names


def as_cutoffs(ks: object) -> list[int]:
    """The cut-offs k of metrics.

    Raises:
        ConfigError: it is not a sequence of integers of 1 or more, or is empty.
    """
    remedy = "Give a list of numbers from 1, such as [1, 3, 5]."
    cutoffs = [as_whole_number("ks", k) for k in _items(ks, "ks", remedy)]
    if not cutoffs:
        raise ConfigError("ks", cutoffs, "is empty", remedy)
    return cutoffs


def as_precision(precision: object) -> PredictionPrecision:
    """Validate a number format of the encoder.

    Raises:
        ConfigError: it is not a number format.
    """
    found = next((each for each in get_args(PredictionPrecision) if each == precision), None)
    if found is None:
        raise ConfigError("precision", precision, "is not a number format", "Use auto, fp32, bf16 or int8.")
    return found


def as_device(device: object) -> torch.device:
    """Validate a device.

    Raises:
        ConfigError: PyTorch does not support the device, or this machine does not have it.
    """
    remedy = "Use None for the accelerator if there is one, else the CPU."
    try:
        found = torch.device(device)  # pyright: ignore[reportCallIssue, reportArgumentType]  it may be anything
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError, ValueError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0].partition(". ")[0].rstrip(".")
        raise ConfigError("device", _shown(device), f"cannot be used here ({reason})", remedy) from error
    if found.type == "meta":
        raise ConfigError("device", "meta", "stores no values", remedy)
    return found


def _items(values: object, field: str, remedy: str) -> Iterator[Any]:
    """The items of a flat sequence; Arrow values as Python objects."""
    if isinstance(values, str | bytes | bytearray | memoryview):
        problem = "is one string, not a sequence of them" if isinstance(values, str) else "is bytes, not text"
        raise ConfigError(field, type(values), problem, remedy)
    # Tables and dictionaries iterate over column names or keys, which are strings too.
    is_flat = getattr(values, "ndim", 1) == 1 and not hasattr(values, "columns") and not isinstance(values, Mapping)
    try:
        if is_flat:
            return iter(values.to_pylist() if hasattr(values, "to_pylist") else values)  # pyright: ignore
    except TypeError:
        pass  # not iterable
    raise ConfigError(field, _shown(values), "must be a flat sequence", remedy)


def _can_name_a_file(url: str) -> bool:
    try:
        return b"\0" not in os.fsencode(url)
    except UnicodeEncodeError:
        return False


def _names(item: object, field: str) -> list[str]:
    """The names of one text's labels."""
    several = [item] if isinstance(item, str | int | np.integer) else item
    if isinstance(several, bytes | bytearray | Mapping) or not isinstance(several, Iterable):
        raise ConfigError(field, _shown(item), "is neither a label name nor a list of them", f"{_NAMES_WANTED}.")
    names = list(several)
    for name in names:
        if not isinstance(name, str | int | np.integer):
            problem = f"contains {_article(type(name).__name__)}, not only label names"
            raise ConfigError(field, _shown(item), problem, f"{_NAMES_WANTED}.")
    return [str(name) for name in names]


def _plain(text: object, field: str) -> str:
    """Convert a string to a plain `str`, not a subclass such as NumPy's."""
    if isinstance(text, str):
        return str.__str__(text)
    is_missing = text is None or text != text  # noqa: PLR0124 - NaN alone differs from itself
    problem = "is missing" if is_missing is True else f"is {_article(type(text).__name__)}, not a string"
    hint = " Decode it first." if isinstance(text, bytes | bytearray) else ""
    raise ConfigError(field, _shown(text), problem, f"{_WANTED}.{hint}")


def _index(value: object) -> int | None:
    """`value` as an integer, or None if it is not one. Booleans are not integers."""
    if isinstance(value, bool | np.bool_ | np.ndarray | torch.Tensor):
        return None
    try:
        return operator.index(value)  # pyright: ignore[reportArgumentType]  asked of anything
    except TypeError:
        return None


def _remedy_for(label: object) -> str:
    if isinstance(label, bool | np.bool_):
        return "Give ids; np.flatnonzero(mask) converts a mask to ids."
    return f"{_LABELS_WANTED}."


def _shown(value: object) -> object:
    """A value for an error message: itself if it is short, else its type."""
    if isinstance(value, int) and value.bit_length() > _SHORT:  # Python does not print integers of any length
        return type(value)
    is_short = isinstance(value, int | float) or (isinstance(value, str) and len(value) <= _SHORT)
    return value if value is None or is_short else type(value)


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def indicators_of(names: Sequence[Sequence[str]], known: Sequence[str]) -> sparse.csr_matrix:
    """Indicators of N texts' labels, CSR float32 [N, L + number of unknown names].

    Args:
        names: label names of each text; repeated names count once.
        known: names of the L labels.
    """
    id_of = {name: number for number, name in enumerate(known)}
    ids = [sorted({id_of.setdefault(name, len(id_of)) for name in each}) for each in names]
    return indicators(Ragged.from_lists(ids), len(id_of))
