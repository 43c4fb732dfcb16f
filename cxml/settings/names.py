"""Check whether label names consist of words that occur in the labels' texts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cxml.data import Ragged, parts_of_names

_WORDS = re.compile(r"\b[^\W\d_]+\b")
_WORDS_AND_NUMBERS = re.compile(r"[^\W_]+")
_PATTERNS = ("(.+)", r"^([^\W\d_]+(?:[ _'-][^\W\d_]+)*)")  # a whole name, or its words up to a number or a full stop
_LEAST_SHARE = 0.1  # of a name's words must occur in its own texts
_TIMES_OTHERS = 5  # more often than in the texts of another label
_VERBATIM = 0.02  # largest share of names that are whole texts
_FEWEST = 10  # names needed for a decision


@dataclass(frozen=True)
class NameOverlap:
    """How the label names of a data set relate to its texts.

    Attributes:
        pattern: expression for `train.name_texts`, whose first group is the part of a name to train on; empty if
            training on names would not help.
        describes: whether texts use the words of their labels' names.
    """

    pattern: str
    describes: bool


def overlap_of_names(names: Sequence[str], texts: Sequence[str], labels: Ragged) -> NameOverlap:
    """Whether label names describe their texts, and which part of them helps in training.

    Names describe texts if their words occur in the texts of their own label much more often than in other texts. Codes
    and numbers do not. If names are whole texts, training on them does not help: other names may then be test texts.

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
    parts = {pattern: _parts_of_seen(names, pattern, words_of_label) for pattern in _PATTERNS}
    shares = {pattern: _share_in_own_texts(found, words_of_label) for pattern, found in parts.items()}
    describes = max(shares.values()) >= _LEAST_SHARE
    whole = {_plain(text) for text in spoken}
    usable = {pattern: 0.0 if _are_texts(parts[pattern], whole) else share for pattern, share in shares.items()}
    best = max(_PATTERNS, key=lambda pattern: usable[pattern])  # the first of equally good ones
    return NameOverlap(best if usable[best] >= _LEAST_SHARE else "", describes)


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


def _parts_of_seen(names: Sequence[str], pattern: str, words_of_label: Mapping[int, frozenset[str]]) -> dict[int, str]:
    """The parts of the names that a pattern selects, in lower case, of labels with texts; empty if there are few."""
    seen = sorted(words_of_label)
    parts = {seen[place]: part.lower() for place, part in parts_of_names([names[i] for i in seen], pattern).items()}
    return parts if len(parts) >= _FEWEST else {}


def _are_texts(parts: Mapping[int, str], texts: set[str]) -> bool:
    """Whether some parts are whole texts; `texts` are the results of `_plain`."""
    return sum(_plain(part) in texts for part in parts.values()) > _VERBATIM * len(parts)


def _share_in_own_texts(parts: Mapping[int, str], words_of_label: Mapping[int, frozenset[str]]) -> float:
    """The mean share of a name's words that occur in the label's texts; 0 if other texts use them nearly as often."""
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
