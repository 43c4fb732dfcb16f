"""The ICD-10-CM code book as a data set: short medical texts and the codes they belong to.

The texts of a code are its description, its inclusion terms and its "includes" notes. The labels of a text are its code
and all the code's ancestors: category, section, chapter. Labels that occur only once cannot be both trained and tested,
so they are removed, together with texts that have no other label.
"""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from scipy import sparse

from cxml import extras
from cxml.data import Ragged, epoch_order
from cxml.formats.raw import RawDataset, RawSplit
from cxml.formats.reader import SPLITS, RawChunk

_PACKAGE = "simple-icd-10-cm"
_MIN_TEXTS_PER_LABEL = 2


def read(chapters: Sequence[str], test_fraction: float, split_seed: int) -> RawDataset:
    """Read the chapters (empty: all) and hold out `test_fraction` of the texts.

    Raises:
        ConfigError: the package simple-icd-10-cm is not installed.
    """
    _require_package()
    wanted = {str(int(chapter)) for chapter in chapters}
    pairs = [pair for pair in _texts_with_codes() if not wanted or pair[1][-1] in wanted]
    counts = Counter(chain.from_iterable(codes for _, codes in pairs))  # keeps the order of the book
    kept = [code for code, count in counts.items() if count >= _MIN_TEXTS_PER_LABEL]
    label_of = {code: label for label, code in enumerate(kept)}

    texts, labels = [], []
    for text, codes in pairs:
        known = sorted(label_of[code] for code in codes if code in label_of)
        if known:
            texts.append(text)
            labels.append(known)
    matrix = _to_csr(labels, len(kept))

    num_test = min(max(round(len(texts) * test_fraction), 1), len(texts) - 1)
    order = epoch_order(len(texts), split_seed, 0)
    splits = {"train": np.sort(order[num_test:]), "test": np.sort(order[:num_test])}
    return RawDataset(
        splits={name: RawSplit([texts[i] for i in rows], matrix[rows]) for name, rows in splits.items()},
        label_names=[f"{code} {_book().get_description(code)}" for code in kept],
    )


class Icd10cmReader:
    """A reader of the code book, which is small and kept in memory."""

    def __init__(self, chapters: Sequence[str], test_fraction: float, split_seed: int) -> None:
        """Store the settings. Raises `ConfigError` if the package is not installed."""
        _require_package()
        self._settings = chapters, test_fraction, split_seed

    @property
    def splits(self) -> tuple[str, ...]:
        """See `Reader.splits`."""
        return SPLITS

    @property
    def collects_labels(self) -> bool:
        """See `Reader.collects_labels`."""
        return False

    def facts(self) -> dict[str, Any]:
        """The version of the code book's package, which identifies its content."""
        return {"package": _PACKAGE, "version": importlib.metadata.version(_PACKAGE)}

    def label_names(self) -> list[str]:
        """Code and description of each label."""
        return self._raw.label_names

    def chunks(self, split: str) -> Iterator[RawChunk]:
        """All texts of a split at once."""
        raw = self._raw.splits[split]
        labels = Ragged(raw.labels.indices, raw.labels.indptr.astype(np.int64))
        lines = np.arange(1, len(raw.texts) + 1)
        yield RawChunk(_PACKAGE, lines, list(raw.texts), labels, _PACKAGE, lines)

    @cached_property
    def _raw(self) -> RawDataset:
        return read(*self._settings)


def _texts_with_codes() -> Iterator[tuple[str, list[str]]]:
    """Yield each text with its code and the code's ancestors, with the chapter last.

    39 sections have the name of their only category: the book lists such a code twice, once as its own ancestor.
    """
    book = _book()
    for code in book.get_all_codes(with_dots=True):
        codes = list(dict.fromkeys([code, *book.get_ancestors(code)]))
        for text in (book.get_description(code), *book.get_inclusion_term(code), *book.get_includes(code)):
            yield text, codes


def _to_csr(rows: list[list[int]], num_labels: int) -> sparse.csr_matrix:
    ragged = Ragged.from_lists(rows)
    ones = np.ones(len(ragged.values), np.float32)
    return sparse.csr_matrix((ones, ragged.values, ragged.offsets), (len(rows), num_labels))


def _book() -> Any:  # noqa: ANN401 - a module without type information
    import simple_icd_10_cm  # noqa: PLC0415 - an optional package that takes seconds to load

    return simple_icd_10_cm


def _require_package() -> None:
    extras.require("data.source.kind", "icd10cm", "simple_icd_10_cm")
