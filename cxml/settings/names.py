"""Whether the names of labels are words, and words that the labels' texts use."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from cxml.data import Ragged, parts_of_names

_WORDS = re.compile(r"[^\W\d_]+")
_PATTERNS = ("(.+)", r"^([^\W\d_]+(?:[ _'-][^\W\d_]+)*)")  # a whole name, or its words up to a number or a full stop
_ODD = re.compile(r"[^\W_]+")  # words and numbers
_KNOWN = 0.8  # share of names' words that the texts know
_OWN, _TIMES_OTHERS = 0.1, 5  # share of a name's words in its own texts, and how much rarer they are in others'
_VERBATIM = 0.02  # share of names that are whole texts
_FEWEST = 10  # names that can be looked at


def name_pattern(names: Sequence[str], texts: Sequence[str], labels: Ragged) -> str:
    """The expression for `train.name_texts` that finds words in the labels' names; empty where that would not help.

    Names help where most of their words occur in texts, and more so in those of their own label. They do not where they
    are codes or numbers, nor where they are whole texts themselves: test texts may be others of them.

    Args:
        names: of all L labels.
        texts: some train texts.
        labels: label ids of each of them.
    """
    spoken = [text.lower() for text in texts]
    own_texts = _texts_of_labels(labels)
    seen = sorted(own_texts)
    whole = {text.strip() for text in spoken}
    for pattern in _PATTERNS:
        parts = {label: part.lower() for label, part in parts_of_names([names[i] for i in seen], pattern).items()}
        parts = {seen[place]: part for place, part in parts.items()}
        if len(parts) < _FEWEST or sum(part in whole for part in parts.values()) > _VERBATIM * len(parts):
            continue
        if _are_words_of_their_texts(parts, spoken, own_texts):
            return pattern
    return ""


def _texts_of_labels(labels: Ragged) -> dict[int, list[int]]:
    """Places of each label's texts, by label."""
    found: dict[int, list[int]] = {}
    rows = np.repeat(np.arange(len(labels)), labels.lengths)
    for row, label in zip(rows.tolist(), labels.values.tolist(), strict=True):
        found.setdefault(label, []).append(row)
    return found


def _are_words_of_their_texts(parts: dict[int, str], texts: Sequence[str], own_texts: dict[int, list[int]]) -> bool:
    words_of_text = [frozenset(_WORDS.findall(text)) for text in texts]
    vocabulary = frozenset().union(*words_of_text)
    words = {label: frozenset(_ODD.findall(part)) for label, part in parts.items()}
    known = [len(each & vocabulary) / len(each) for each in words.values() if each]
    if not known or np.mean(known) < _KNOWN:
        return False
    order = sorted(words)
    others = dict(zip(order, order[len(order) // 2 :] + order[: len(order) // 2], strict=True))

    def share(label: int, of: int) -> float:
        """Of a name's words those in the texts of the label `of`."""
        heard = frozenset().union(*(words_of_text[row] for row in own_texts[of]))
        return len(words[label] & heard) / max(len(words[label]), 1)

    own = np.mean([share(label, label) for label in order])
    other = np.mean([share(label, others[label]) for label in order])
    return bool(own >= _OWN and own >= _TIMES_OTHERS * other)
