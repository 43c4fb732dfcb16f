"""Parse the labels of a row: a list, or a string with separators.

`parse_labels` rejects rows that clearly have another meaning. `doubts` warns about problems that are visible only in
all names together.
"""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from cxml.console import counted
from cxml.formats.reader import show

_LIST_AS_TEXT = re.compile(
    r"""[\[{].*[\]}] | \[\s*['"].* | [\w.]*\(\s*['"\[{(].*\) | (?:set|frozenset|list|tuple|dict)\(\)
    | <[^<>]+>(?:<[^<>]+>)+""",  # the last one: tags of Stack Exchange
    re.DOTALL | re.VERBOSE,
)
_BRACKETS = ("[]", "{}")
_TAGS, _TAG = re.compile(r"(?:<[^<>]+>)+"), re.compile(r"<([^<>]+)>")
_IN_PARENTHESES = re.compile(r"\([^()]*\)")
_ID = re.compile(r"\s*-?[0-9]{1,18}\s*", re.ASCII)  # fits 64 bits
_WHOLE_FLOAT = re.compile(r"-?[0-9]+\.0+")
_QUOTED = re.compile(r"(['\"]).*\1", re.DOTALL)
_MULTI_HOT = (0, 1, "0", "1", "0.0", "1.0", "False", "True", "false", "true")
SEPARATORS = ("|", ";", "\t", "\n")
"""Possible separators of labels, besides commas and blanks, which also occur in names."""
_MISSING_VALUES = ("nan", "NaN", "None", "null", "NULL", "NA", "<NA>", "NaT")
_NAMES_WANTED = "Write the unique names of the text's labels: a list of strings, or one string with separators."


class NoLabelsError(ValueError):
    """A cell does not contain labels: the general problem `what`, the `detail` of this row, and the remedy."""

    def __init__(self, what: str, detail: str, remedy: str) -> None:
        super().__init__(what + detail)
        self.what = what
        self.detail = detail
        self.remedy = remedy


def parse_labels(cell: object, separator: str | None, *, are_ids: bool = False) -> Sequence[str | int]:
    """Parse the labels of one row: names or ids.

    Args:
        cell: a list of strings and integers, or a string. A string contains names and separators, where blanks around
            names are removed and a trailing separator is allowed; or a whole list in the notation of JSON or Python.
        separator: separator of labels in a string; None for blanks.
        are_ids: labels are ids, written as integers or digits.

    Raises:
        NoLabelsError: the cell has another content.
    """
    if isinstance(cell, str):
        labels = _split(cell.strip(), separator)
    elif isinstance(cell, list):
        labels = cell
    else:
        raise NoLabelsError("no labels", f": {show(cell)}", _NAMES_WANTED)
    if len(labels) > 1 and all(label in _MULTI_HOT for label in labels) and len(set(labels)) < len(labels):
        raise NoLabelsError("a multi-hot list, with a 0 or 1 for each label", f": {show(cell)}", _NAMES_WANTED)
    return [parse_id(label) for label in labels] if are_ids else [_name_of(label) for label in labels]


def parse_id(label: object) -> int:
    """Parse a label id, which may be out of range. Raises `NoLabelsError` unless it is an integer or digits."""
    if isinstance(label, int) and not isinstance(label, bool):
        return label
    if isinstance(label, str) and _ID.fullmatch(label):
        return int(label)
    raise NoLabelsError("a label that is not an id", f": {show(label)}", "Write ids as integers, counted from 0.")


def _split(cell: str, separator: str | None) -> list[Any]:
    may_be_tuple = _IN_PARENTHESES.fullmatch(cell) and (separator or " ") in cell
    if cell[:1] + cell[-1:] in _BRACKETS or may_be_tuple or _TAGS.fullmatch(cell):
        labels = parse_list(cell)
        if labels is not None:
            return labels
    if is_list(cell) or may_be_tuple:
        remedy = 'Write it as JSON, such as ["a", "b"], or join the names with the separator.'
        raise NoLabelsError("a list in an unknown notation", f": {show(cell)}", remedy)
    return split_names(cell, separator)


def split_names(cell: str, separator: str | None) -> list[str]:
    """The names between separators, without surrounding blanks and without empty ones; None separates at blanks."""
    return [name.strip() for name in cell.split(separator) if name.strip()]


def is_list(cell: str) -> bool:
    """Whether a string looks like a list that was written as text, in any notation."""
    return bool(_LIST_AS_TEXT.fullmatch(cell.strip()))


def parse_list(cell: str) -> list[Any] | None:
    """The items of a JSON list, of a list, tuple or set in Python's notation, of a NumPy array, or of tags `<a><b>`.

    Lists and tuples contain strings and numbers, and arrays strings, as pandas writes them into CSV files. Stack
    Exchange writes tags. Returns None for strings in another notation.
    """
    if _TAGS.fullmatch(cell):
        return _TAG.findall(cell)
    try:
        labels = _json_list(cell)
        labels = _python_list(cell) if labels is None else labels
        for label in labels or ():
            str(label).encode()  # fails for half of a surrogate pair
    except (ValueError, RecursionError, SyntaxError, tokenize.TokenError):
        return None
    return labels


def _json_list(cell: str) -> list[Any] | None:
    try:
        value = json.loads(cell)
    except ValueError:
        return None
    return value if isinstance(value, list) else None


def _python_list(cell: str) -> list[Any] | None:
    tokens = [token for token in tokenize.generate_tokens(io.StringIO(cell).readline) if token.type != tokenize.NL]
    inner = tokens[1:-3]  # without brackets, and without the two tokens that end a line
    if cell.startswith("[") and inner and all(token.type == tokenize.STRING for token in inner):
        return [ast.literal_eval(token.string) for token in inner]  # NumPy writes no commas
    items, between = inner[::2], inner[1::2]
    if any(token.type not in (tokenize.STRING, tokenize.NUMBER) for token in items):
        return None
    if any(token.string != "," for token in between):  # Python would join strings without a comma between them
        return None
    return [ast.literal_eval(token.string) for token in items]


def _name_of(label: object) -> str:
    if isinstance(label, bool) or not isinstance(label, (str, int)):
        raise NoLabelsError("a label that is neither a string nor an integer", f": {show(label)}", _NAMES_WANTED)
    name = str(label)
    if not name.strip():
        raise NoLabelsError("a label without a name", f": {show(name)}", "Remove the empty name from the list.")
    return name


def are_multi_hot(texts_of: Counter[str], num_texts: int) -> bool:
    """Whether multi-hot lists of length two were read as names: every text has both. Rows reject longer ones."""
    return num_texts > 2 and texts_of == {"0": num_texts, "1": num_texts}


def doubts(texts_of: Counter[str], num_texts: int, separator: str | None) -> Iterator[str]:
    """Yield a sentence for each suspicious property of a data set's names.

    Args:
        texts_of: number of texts of each name.
        num_texts: number of texts with a label.
        separator: separator of labels; None for blanks.
    """
    if texts_of.total() == num_texts:
        yield from _other_separator(texts_of, num_texts, separator)
    for kind, remedy in (
        (_WHOLE_FLOAT, "look like integers that were written as floating-point numbers"),
        (_QUOTED, "have quotation marks, which are part of the name"),
    ):
        hits = [name for name in texts_of if kind.fullmatch(name)]
        if sum(texts_of[name] for name in hits) > texts_of.total() / 2:
            yield f"{len(hits)} of {len(texts_of)} label names {remedy}, such as {show(hits[0])}."
    missing = [name for name in _MISSING_VALUES if name in texts_of]
    if missing:
        yield f"A label is named {missing[0]!r}, in {counted(texts_of[missing[0]], 'text')}; is that a missing value?"
    yield from _near_duplicates(texts_of)


def _other_separator(texts_of: Counter[str], num_texts: int, separator: str | None) -> Iterator[str]:
    """If every text has one label, labels may have another separator than `separator`."""
    for other in (*SEPARATORS, ",", " "):
        hits = [name for name in texts_of if other in name]
        count = sum(texts_of[name] for name in hits)
        # Blanks are common in names. If they separate labels, the same labels recur in other combinations.
        are_words = other == " " and len({part for name in hits for part in name.split()}) > len(hits)
        if other == separator or are_words or count <= num_texts / 2:
            continue
        set_to = "blanks" if separator is None else repr(separator)
        yield (
            f"Every text has one label, since {set_to} separates no labels, but {count} of {num_texts} texts have "
            f"{other!r} in it, such as {show(hits[0])}. If that separates labels, set data.source.label_separator to "
            "it (kinds table, jsonl, csv and parquet), or rewrite the file."
        )
        return


def _near_duplicates(texts_of: Counter[str]) -> Iterator[str]:
    """Names that look the same to people."""
    groups: dict[str, list[str]] = {}
    for name in texts_of:
        plain = name if name.isascii() else "".join(filter(str.isprintable, unicodedata.normalize("NFKC", name)))
        groups.setdefault(" ".join(plain.casefold().split()), []).append(name)
    twins = [names for names in groups.values() if len(names) > 1]
    if twins:
        one, other = map(ascii, twins[0][:2])  # escaped, because both would look the same
        yield (
            f"Label names that differ from another one only in case, blanks or Unicode form: {len(twins)}, such as "
            f"{one} and {other}. They are kept as different labels."
        )
