"""Label names as additional texts of their labels (the idea of LEVER, Jain et al.)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from cxml.data.dataset import read_label_table
from cxml.data.manifest import DataManifest
from cxml.data.ragged import Ragged, concatenate
from cxml.data.titles import LabelTitles, with_description
from cxml.data.tokenizing import TextEncoder, load_tokenizer_of
from cxml.errors import ConfigError


class TextRows(Protocol):
    """N texts as token ids with their labels: a split, optionally with additional texts."""

    manifest: DataManifest

    def __len__(self) -> int:
        """N."""
        ...

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each text, int64 [N]."""
        ...

    @property
    def label_counts(self) -> np.ndarray:
        """Labels of each text, int64 [N]."""
        ...

    def gather(self, indices: np.ndarray) -> tuple[Ragged, Ragged]:
        """Token ids and labels, both int32, of the texts `indices` int64 [n], in that order."""
        ...


class WithNames:
    """The rows of a split, then one row for each label whose name matches the pattern; satisfies `TextRows`."""

    def __init__(self, dataset: TextRows, names: Ragged, labels: np.ndarray) -> None:
        """`names`: token ids of n names; `labels`: the label of each, int64 [n]."""
        self.manifest = dataset.manifest
        self._dataset = dataset
        self._names = names
        self._labels = Ragged(labels.astype(np.int32), np.arange(len(labels) + 1))
        self.lengths = np.concatenate([dataset.lengths, names.lengths])
        self.label_counts = np.append(dataset.label_counts, np.ones(len(labels), np.int64))

    def __len__(self) -> int:
        """Texts and names."""
        return len(self.lengths)

    def gather(self, indices: np.ndarray) -> tuple[Ragged, Ragged]:
        """See `TextRows.gather`."""
        is_name = indices >= len(self._dataset)
        texts_first = np.argsort(is_name, kind="stable")
        place = np.argsort(texts_first)  # of each requested row when texts come before names
        rows = indices[is_name] - len(self._dataset)
        both = zip(self._dataset.gather(indices[~is_name]), (self._names, self._labels), strict=True)
        ids, labels = (concatenate([texts, names.take(rows)]).take(place) for texts, names in both)
        return ids, labels


def with_names(dataset: TextRows, url: str, pattern: str, max_length: int) -> WithNames:
    """A split of the data set at `url` and the names of its labels: titles and descriptions where it has some.

    Args:
        dataset: the split, or some rows of it.
        url: of its data set.
        pattern: a regular expression whose first group is the part of a name or title to use; underscores become
            spaces.
        max_length: most tokens of a name.

    Raises:
        ConfigError: no name matches the pattern.
        StaleArtefactError: the tokenizer differs from the one that prepared the data.
    """
    words = read_label_table(url).words
    found = described_parts(require_parts_of_names(words.titles, pattern), words)
    tokenizer = load_tokenizer_of(dataset.manifest.tokenizer, url)
    labels = np.fromiter(found.keys(), np.int64, len(found))
    return WithNames(dataset, TextEncoder(tokenizer, max_length).encode(list(found.values())), labels)


def require_parts_of_names(names: Sequence[str], pattern: str) -> dict[int, str]:
    """`parts_of_names`; raises `ConfigError` where no name has the wanted part."""
    found = parts_of_names(names, pattern)
    if not found:
        raise ConfigError(
            "train.name_texts", pattern, f"matches none of the {len(names)} label names, such as {names[0]!r}",
            "Use an expression whose group is the part to use; (.+) uses the whole name.",
        )  # fmt: skip
    return found


def described_parts(parts: Mapping[int, str], words: LabelTitles) -> dict[int, str]:
    """The texts of labels: the parts of their names, each with its label's description if it has one."""
    return {label: with_description(part, words.descriptions[label]) for label, part in parts.items()}


def parts_of_names(names: Sequence[str], pattern: str) -> dict[int, str]:
    """The first group of `pattern` in each name, by label; names without a match are omitted."""
    expression = re.compile(pattern)
    parts = {label: found[1] for label, name in enumerate(names) if (found := expression.search(name))}
    spaced = {label: part.replace("_", " ").strip() for label, part in parts.items() if part}
    return {label: part for label, part in spaced.items() if part}
