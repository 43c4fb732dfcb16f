"""Check whether label names consist of words that occur in the labels' texts."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from cxml.data import Ragged, parts_of_names

_WORDS = re.compile(r"\b[^\W\d_]+\b")
_WORDS_AND_NUMBERS = re.compile(r"[^\W_]+")
_PATTERNS = ("(.+)", r"^([^\W\d_]+(?:[ _'-][^\W\d_]+)*)")  # a whole name, or its words up to a number or a full stop
_LEAST_SHARE = 0.1  # of a name's words must occur in its own texts
_TIMES_OTHERS = 5  # more often than in the texts of another label
_VERBATIM = 0.02  # largest share of names that are whole texts
_FEWEST = 10  # names needed for a decision


def name_pattern(names: Sequence[str], texts: Sequence[str], labels: Ragged) -> str:
    """The expression for `train.name_texts` that extracts words from label names; empty if names would not help.

    Names help if their words occur in the texts of their own label much more often than in other texts. They do not
    help if they are codes or numbers, or if they are whole texts: other names may then be test texts.

    Args:
        names: of all L labels.
        texts: some train texts.
        labels: label ids of each of them.
    """
    spoken = [text.lower() for text in texts]
    words = [frozenset(_WORDS.findall(text)) for text in spoken]
    words_of_label = {
        label: frozenset().union(*(words[row] for row in rows)) for label, rows in _texts_of_labels(labels).items()
    }
    whole = {_plain(text) for text in spoken}
    found = [(_share_in_own_texts(names, pattern, words_of_label, whole), pattern) for pattern in _PATTERNS]
    best, pattern = max(found, key=lambda pair: pair[0])  # the first of equally good ones
    return pattern if best >= _LEAST_SHARE else ""


def _plain(text: str) -> str:
    """The words of a text, without numbers, codes such as D50 and punctuation."""
    return " ".join(_WORDS.findall(text))


def _texts_of_labels(labels: Ragged) -> dict[int, list[int]]:
    """Places of each label's texts, by label."""
    found: dict[int, list[int]] = {}
    rows = np.repeat(np.arange(len(labels)), labels.lengths)
    for row, label in zip(rows.tolist(), labels.values.tolist(), strict=True):
        found.setdefault(label, []).append(row)
    return found


def _share_in_own_texts(
    names: Sequence[str], pattern: str, words_of_label: dict[int, frozenset[str]], texts: set[str]
) -> float:
    """The mean share of a name's words that occur in the label's texts; 0 if names should not be trained on.

    `texts` are the results of `_plain`.
    """
    seen = sorted(words_of_label)
    parts = {seen[place]: part.lower() for place, part in parts_of_names([names[i] for i in seen], pattern).items()}
    if len(parts) < _FEWEST or sum(_plain(part) in texts for part in parts.values()) > _VERBATIM * len(parts):
        return 0.0
    words = {label: frozenset(_WORDS_AND_NUMBERS.findall(part)) for label, part in parts.items()}
    order = [label for label, own in words.items() if own]
    if not order:
        return 0.0
    others = order[len(order) // 2 :] + order[: len(order) // 2]
    own, other = (
        float(np.mean([len(words[label] & words_of_label[of]) / len(words[label]) for label, of in pairs]))
        for pairs in (zip(order, order, strict=True), zip(order, others, strict=True))
    )
    return own if own >= _TIMES_OTHERS * other else 0.0
