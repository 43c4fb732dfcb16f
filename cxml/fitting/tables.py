"""Write texts and labels from Python as the input files of a run."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from cxml.errors import ConfigError
from cxml.formats import (
    LabelColumns,
    NoLabelsError,
    NoTextError,
    find_split_column,
    guess_columns,
    guess_label_columns,
    is_list,
    only_other,
    parse_list,
    recurring_separator,
    split_columns,
    split_names,
    text_of,
)
from cxml.prediction.arguments import as_texts, refuse_surrogates

_log = logging.getLogger(__name__)

_MISSING = ("None", "nan", "<NA>")  # values of Arrow and pandas, as strings
_LABELS_WANTED = 'Give for each text a label or a list of labels, such as [["shoes", "sports"], ["hats"]]'


def rows_folder(output: str) -> str:
    """The folder of rows in memory in the output of their run."""
    return str(Path(output, "raw"))


def write_rows(folder: Path, texts: Sequence[str], labels: Sequence[Sequence[str]]) -> None:
    """Write all rows as the train split, and the first row as the test split, which every data set must have."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table({"text": pa.array(texts, pa.string()), "labels": pa.array(labels, pa.list_(pa.string()))})
    pyarrow.parquet.write_table(table, folder / "train.parquet")
    pyarrow.parquet.write_table(table.slice(0, 1), folder / "test.parquet")


def rows_of(texts: Any, labels: Any) -> tuple[list[str], list[list[str]]]:  # noqa: ANN401 - of many libraries
    """Texts and the names of their labels as plain lists.

    Args:
        texts: N strings in a type that `Predictor.predict` accepts; or, without `labels`, a pandas DataFrame or an
            Arrow table with a column of texts and one of labels, called `text` and `labels` or by another usual name.
            Labels can also be in columns such as `label1` and `label2`, or in columns of 0 and 1 with their names.
        labels: one or several names for each text, in a list, array, Series or Arrow array. Numbers become names.
            Strings in the column of a table are split where a separator is found; others are one name.

    Raises:
        ConfigError: texts and labels do not match, or a text has no label. The message names its position.
    """
    is_table = labels is None
    if is_table:
        texts, labels = _columns(texts)
    found = as_texts(texts)
    refuse_surrogates(found)
    items = _plain(labels)
    separator = _separator(items) if is_table else None
    names = [_names(each, position, separator) for position, each in enumerate(items)]
    if len(found) != len(names):
        problem = f"{len(found)} texts have {len(names)} labels or lists of labels"
        raise ConfigError("labels", f"{len(names)} items", problem, f"{_LABELS_WANTED}.")
    if not found:
        raise ConfigError("texts", "0 items", "are empty", "Give texts to train on.")
    return found, names


def _columns(table: Any) -> tuple[Any, Any]:  # noqa: ANN401
    """The texts and labels of a DataFrame or Arrow table, by the usual names of columns."""
    columns = getattr(table, "column_names", None) or getattr(table, "columns", ())
    names = [name for name in columns if isinstance(name, str) and name]
    text, labels = guess_columns(names) if names else (None, None)
    read = partial(_rows, table)
    of_labels = guess_label_columns(names, read) if labels is None else None
    if of_labels is not None:
        text = text or only_other(names, of_labels.names)
    if text is None or (labels is None and of_labels is None):
        remedy = "Pass labels, or a table with the columns text and labels, or the path of such a table."
        raise ConfigError("labels", names or None, "is missing, or the columns of the table are ambiguous", remedy)
    of_text = split_columns(text, names)
    for name in (*of_text, labels):
        if names.count(name or "") > 1:
            raise ConfigError("texts", name, "is the name of several columns", "Rename or remove one of them.")
    unused = [name for name in names if name not in (*of_text, labels) and names.count(name) == 1]
    splits = find_split_column("texts", unused, read)
    if splits is not None:
        _log.warning(
            "The column %r names the split of each row, but all rows are trained on. Pass the rows of train only.",
            splits.column,
        )
    parts = {name: table[name] for name in of_text}
    texts = _joined(parts) if len(parts) > 1 else parts[text]
    return texts, table[labels] if of_labels is None else _labels_in(table, of_labels)


def _labels_in(table: Any, of_labels: LabelColumns) -> list[list[str]]:  # noqa: ANN401
    labels = []
    for position, row in enumerate(_rows(table, of_labels.names)):
        filled = {name: cell for name, cell in row.items() if isinstance(cell, str) or str(cell) not in _MISSING}
        try:
            labels.append([str(label) for label in of_labels.labels_of(filled)])
        except NoLabelsError as error:
            raise ConfigError(f"labels[{position}]", repr(row)[:80], error.what, error.remedy) from error
    return labels


def _rows(table: Any, names: Sequence[str]) -> Iterator[dict[str, Any]]:  # noqa: ANN401
    columns = [_cells(table[name]) for name in names]
    return (dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True))


def _cells(column: Any) -> list[Any]:  # noqa: ANN401
    return column.to_pylist() if hasattr(column, "to_pylist") else column.tolist()


def _joined(columns: Mapping[str, Any]) -> list[str]:
    """The texts of several columns, joined row by row. Missing values are left out."""
    cells = [_cells(each) for each in columns.values()]
    texts = []
    for position, row in enumerate(zip(*cells, strict=True)):
        cells_by_name = zip(columns, row, strict=True)
        filled = {name: cell for name, cell in cells_by_name if isinstance(cell, str) or str(cell) not in _MISSING}
        try:
            texts.append(text_of(filled, tuple(columns)))
        except NoTextError as error:
            raise ConfigError(f"texts[{position}]", repr(row)[:80], str(error), "Give strings.") from error
    return texts


def _plain(labels: Any) -> list[Any]:  # noqa: ANN401
    """Labels as a list of one item per text."""
    to_list = getattr(labels, "to_pylist", None) or getattr(labels, "tolist", None)
    if to_list is not None:
        labels = to_list()
    if isinstance(labels, str | bytes) or not hasattr(labels, "__iter__"):
        raise ConfigError("labels", type(labels).__name__, "is not a sequence", f"{_LABELS_WANTED}.")
    return list(labels)


def _separator(labels: Sequence[object]) -> str | None:
    """The separator of labels in the column of a table; None if there is none."""
    separator = recurring_separator(labels)
    if separator is not None:
        _log.warning("labels are separated by %r. To keep them whole, pass lists of names.", separator)
    return separator


def _names(item: Any, position: int, separator: str | None) -> list[str]:  # noqa: ANN401
    """The names of one text's labels, which `separator` separates in a string."""
    if isinstance(item, str) and is_list(item):
        several = parse_list(item)  # such as ['a', 'b'], from a CSV file of pandas
    elif isinstance(item, str) and separator is not None:
        several = split_names(item, separator)
    else:
        several = [item] if isinstance(item, str | int | np.integer) else item
    if not isinstance(several, list | tuple | set | frozenset | np.ndarray):
        problem = "is neither a label nor a list of labels"
        raise ConfigError(f"labels[{position}]", repr(item)[:80], problem, f"{_LABELS_WANTED}.")
    if isinstance(several, set | frozenset):
        several = sorted(several, key=str)  # the order of a set differs between processes, and a run resumes in others
    if not all(isinstance(each, str | int | np.integer) for each in several):
        problem = "contains a value that is neither a string nor an integer"
        raise ConfigError(f"labels[{position}]", repr(item)[:80], problem, f"{_LABELS_WANTED}.")
    names = [str(each) for each in several]
    if not names or not all(name.strip() for name in names):
        problem = "contains an empty name" if names else "names no label"
        raise ConfigError(f"labels[{position}]", names, problem, "Remove texts without labels.")
    return names
