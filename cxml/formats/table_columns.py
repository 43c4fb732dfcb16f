"""Guess the columns of texts and labels in a table by their usual names, and the separator of its labels."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from cxml.config import SourceConfig
from cxml.console import counted, log_once
from cxml.formats.label_text import SEPARATORS, is_list
from cxml.formats.text_columns import JOIN, split_columns

_LONG_TEXTS = ("content", "body", "document", "sentence", "abstract", "description")
_OTHER_TEXTS = (
    *("article", "full_text", "fulltext", "passage", "paragraph", "review", "comment", "message", "post"),
    *("tweet", "comment_text", "review_text", "utterance", "overview", "synopsis", "plot"),
)
_SHORT_TEXTS = ("title", "headline", "name", "summary", "question")
_TEXTS = (("text", *_LONG_TEXTS), _OTHER_TEXTS, _SHORT_TEXTS)
"""Usual names of texts. Where a table has several, those of the first tuple count."""
_TITLE_OF = dict.fromkeys(("title", "headline"), (*_LONG_TEXTS, *_OTHER_TEXTS)) | {"name": ("description",)}
"""The texts that a title is joined with. `text` is assumed to be complete; many columns `name` are not titles."""
_LABELS = (
    ("labels", "label", "tags", "tag", "categories", "category", "codes", "topics", "classes"),
    ("keywords", "subjects", "genres", "genre", "topic", "class", "targets", "target"),
    ("keyword", "subject", "code", "terms", "descriptors", "annotations", "concepts", "mesh_terms", "hashtags"),
)
_KEYS = ("id", "index", "key", "uid", "uuid", "unnamed:_0")
"""Usual names of keys, which are never the other column of a table of two."""
_DEFAULTS = SourceConfig(kind="icd10cm")
_COMMA = ","
_RECURRING, _FEWEST_RECURRING = 0.2, 10  # share and number of the names that occur in several different cells
_FEWEST_COUNTS = 3  # different numbers of labels in a cell; parts of a name are one or two


def guess_columns(
    columns: Sequence[str], text: str = _DEFAULTS.text_column, labels: str = _DEFAULTS.labels_column
) -> tuple[str | None, str | None]:
    """The columns of texts and labels; None where the choice is ambiguous.

    A given column is kept. A default that is missing is replaced by the only column with a usual name, or, in a table
    of two columns, by the other one, unless its name is that of a key.

    Args:
        columns: all named columns of the table but that of its keys.
        text: `data.source.text_column`.
        labels: `data.source.labels_column`.
    """
    texts = _text_column(columns, text)
    found = _known(columns, labels, _DEFAULTS.labels_column, _LABELS)
    if len(columns) == 2 and (texts is None) != (found is None):
        other = next((name for name in columns if name not in (*split_columns(texts or "", columns), found)), None)
        if other is not None and _plain(other) not in _KEYS:
            return texts or other, found or other
    return texts, found


def only_other(columns: Sequence[str], labels: Collection[str]) -> str | None:
    """The only column of a table that is neither one of labels nor a key; None if there are others."""
    others = [name for name in columns if name not in labels and _plain(name) not in _KEYS]
    return others[0] if len(others) == 1 else None


def _text_column(columns: Sequence[str], text: str) -> str | None:
    """The column of texts, preceded by that of their titles (`title+abstract`); None where the choice is ambiguous."""
    found = _known(columns, text, _DEFAULTS.text_column, _TEXTS)
    if found is None or found == text:
        return found
    titles = [name for name in columns if _plain(found) in _TITLE_OF.get(_plain(name), ())]
    return JOIN.join([titles[0], found]) if len(titles) == 1 else found


def unread_texts(columns: Sequence[str], text: str) -> list[str]:
    """Columns with usual names of texts that `text`, the column of the texts, does not include."""
    read = split_columns(text, columns)
    return [name for name in columns if name not in read and any(_plain(name) in names for names in _TEXTS)]


def _known(columns: Sequence[str], wanted: str, default: str, usual: Iterable[Collection[str]]) -> str | None:
    """The given column, or, if it is the default and missing, the only column with a usual name.

    The first collection of usual names that has any of the columns counts.
    """
    if wanted in columns or wanted != default:
        return wanted
    found = next((hits for names in usual if (hits := [name for name in columns if _plain(name) in names])), [])
    return found[0] if len(found) == 1 else None


def _plain(name: str) -> str:
    """The name of a column without differences of case, blanks and hyphens."""
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def find_separator(url: str, cells: Iterable[object], setting: str) -> tuple[str, bool]:
    """The separator of labels in the table `url`, and whether it was preferred to commas that occur too.

    Labels recur in other combinations, so their separator gives fewer distinct names than there are distinct cells, or
    names that occur in several of them. A character inside names gives more names, which rarely recur. If the config
    sets a comma, it separates wherever it occurs.

    Args:
        url: the table.
        cells: cells of its first rows.
        setting: `data.source.label_separator`: `auto` or a comma.
    """
    strings = _strings(cells)
    texts = set(strings)
    names = _names_by_separator(SEPARATORS, texts)
    has_commas = any(_COMMA in text for text in texts)
    if has_commas or not names:
        names = {_COMMA: _names(_COMMA, texts), **names}
    best = max(names, key=lambda separator: _texts_per_name(names[separator]))
    if best == _COMMA:
        are_single = len(names[_COMMA]) > len(texts) and len(strings) >= 2 * len(texts)  # whole cells recur, not names
        if setting == "auto" and are_single:
            _warn_of_commas_in_names(url, len(names[_COMMA]), len(texts))
        return _COMMA, False
    if not has_commas:
        log_once(f"{url}: labels are separated by {best!r}")
        return best, False
    chosen, other = (best, _COMMA) if setting == "auto" else (_COMMA, best)
    log_once(
        f"{url}: labels are separated by {chosen!r}, which makes {counted(len(names[chosen]), 'name')} in the first "
        f"rows; {other!r} makes {len(names[other]):,}. If {other!r} is the separator, set data.source.label_separator "
        "to it.",
        logging.WARNING,
    )
    return chosen, chosen != _COMMA


def warn_of_repeated_texts(url: str, texts: Sequence[object], cells: Sequence[object]) -> None:
    """Warn if the table `url` has a row for each label of a text, given the texts and labels of its first rows."""
    labels_of: dict[object, set[str]] = {}
    for text, cell in zip(texts, cells, strict=True):
        labels_of.setdefault(text, set()).add(str(cell))
    num_repeated = sum(len(labels) > 1 for labels in labels_of.values())
    if num_repeated > len(labels_of) / 10:
        log_once(
            f"{url}: {num_repeated:,} of {counted(len(labels_of), 'text')} in the first rows occur again with other "
            "labels. Every row is a text of its own. If it has one of several labels, write all of them into one row.",
            logging.WARNING,
        )


def recurring_separator(cells: Iterable[object]) -> str | None:
    """The separator, a comma or another, whose names recur in other combinations; None if there is none."""
    texts = set(_strings(cells))
    names = _names_by_separator((_COMMA, *SEPARATORS), texts)
    return max(names, key=lambda separator: _texts_per_name(names[separator]), default=None)


def _strings(cells: Iterable[object]) -> list[str]:
    """The strings that are not lists written as text."""
    return [cell for cell in cells if isinstance(cell, str) and not is_list(cell)]


def _names_by_separator(separators: Iterable[str], texts: Collection[str]) -> dict[str, Counter[str]]:
    """The `_names` of each separator, if there are fewer than texts, or if many recur."""
    found = {each: _names(each, texts) for each in separators}
    return {each: names for each, names in found.items() if len(names) < len(texts) or _many_recur(names, each, texts)}


def _names(separator: str, texts: Collection[str]) -> Counter[str]:
    """The different names between separators, each with the number of texts that contain it."""
    return Counter(name for text in texts for name in {part.strip() for part in text.split(separator)})


def _many_recur(names: Counter[str], separator: str, texts: Collection[str]) -> bool:
    """Whether many names occur in several texts, and texts have different numbers of them."""
    num_recurring = sum(count > 1 for count in names.values())
    return (
        num_recurring >= max(_FEWEST_RECURRING, _RECURRING * len(names))
        and len({text.count(separator) for text in texts}) >= _FEWEST_COUNTS
    )


def _texts_per_name(names: Counter[str]) -> float:
    """Mean number of texts that contain a name."""
    return names.total() / max(1, len(names))


def _warn_of_commas_in_names(url: str, num_names: int, num_cells: int) -> None:
    log_once(
        f"{url}: labels are separated by ',', which makes {counted(num_names, 'name')}, more than the {num_cells:,} "
        "different cells in the first rows. If commas are parts of names, set data.source.label_separator to the "
        "separator, or to a character that does not occur, such as '|'.",
        logging.WARNING,
    )
