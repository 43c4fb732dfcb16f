"""Join a source with its labels file, which has titles and descriptions of the labels."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from cxml import storage
from cxml.config import SourceConfig
from cxml.console import log_once
from cxml.data import LabelTitles
from cxml.errors import ConfigError, DataError
from cxml.formats.labels_file import FIELD, LabelEntry, read_labels_file
from cxml.formats.reader import RawChunk, Reader, show

_log = logging.getLogger(__name__)
_UNSEEN = "data.source.unseen_labels"


class TitledReader:
    """A `Reader` whose labels may have titles.

    A label's name comes from the texts; the labels file is joined by it. Labels of the file without a text are added
    only if `data.source.unseen_labels` is set; they come last, in the order of the file.
    """

    def __init__(self, reader: Reader, source: SourceConfig, labels_file: str | None) -> None:
        """`labels_file`: result of `find_labels_file` for `source`.

        Raises:
            ConfigError: `unseen_labels` is set, but the source has no labels file, or another file lists the labels.
        """
        if source.unseen_labels and labels_file is None:
            problem = f"there is no labels file in {source.path}"
            raise ConfigError(_UNSEEN, True, problem, f"Set {FIELD} to the path of one.")
        if source.unseen_labels and not reader.collects_labels:
            problem = "another file lists the labels, such as labels.txt or a label matrix"
            raise ConfigError(_UNSEEN, True, problem, "List all labels there, and leave this out.")
        self._reader = reader
        self._source = source
        self._file = labels_file

    @property
    def splits(self) -> tuple[str, ...]:
        """See `Reader.splits`."""
        return self._reader.splits

    @property
    def collects_labels(self) -> bool:
        """See `Reader.collects_labels`."""
        return self._reader.collects_labels

    def facts(self) -> dict[str, Any]:
        """The facts of the reader, with size and hash of the labels file, but not its path."""
        facts = self._reader.facts()
        if self._file is None:
            return facts
        content = {"bytes": storage.size(self._file), "sha256": storage.sha256(self._file)}
        return {**facts, "labels_file": content}

    def chunks(self, split: str) -> Iterator[RawChunk]:
        """See `Reader.chunks`."""
        return self._reader.chunks(split)

    def label_names(self) -> list[str]:
        """A name for each of the L labels, in the order of their ids."""
        return self._labels[0]

    def label_titles(self) -> LabelTitles | None:
        """Titles and descriptions of the L labels; None without a labels file.

        Raises:
            DataError: the file is invalid, or the config names it but it has none of the labels.
        """
        return self._labels[1]

    @cached_property
    def _labels(self) -> tuple[list[str], LabelTitles | None]:
        names = list(self._reader.label_names())
        if self._file is None:
            return names, None
        entries = read_labels_file(self._file)
        missing = [name for name in names if name not in entries]
        if len(missing) == len(names):
            self._refuse_other_labels(entries, names[0])
            return names, None
        if missing:
            _log.warning(
                "%s lacks %d of %d labels, such as %s; their ids are used as titles",
                self._file, len(missing), len(names), show(missing[0]),
            )  # fmt: skip
        names += self._unseen(entries, names)
        found = [entries.get(name, LabelEntry(name, "")) for name in names]
        return names, LabelTitles([each.title for each in found], [each.description for each in found])

    def _refuse_other_labels(self, entries: dict[str, LabelEntry], name: str) -> None:
        """Raise `DataError` for a named file without any label of the texts; only warn about a file that was found."""
        assert self._file is not None, "its labels were looked for"
        first = show(next(iter(entries), ""))
        problem = f"has none of the labels of the texts, such as {show(name)}; its first id is {first}"
        if self._source.labels_file != "auto" or self._source.unseen_labels:
            raise DataError(self._file, problem, f"Use the same label ids as in the texts, or correct {FIELD}.")
        log_once(f"{self._file} is not used for the titles of labels: it {problem}.", logging.WARNING)

    def _unseen(self, entries: dict[str, LabelEntry], names: list[str]) -> list[str]:
        """Labels of the file without a text, if they are to be added."""
        known = frozenset(names)
        unseen = [name for name in entries if name not in known]
        if not unseen:
            return []
        has_them = self._source.unseen_labels
        then = "can only be predicted by their titles" if has_them else "are left out"
        remedy = f"; set {_UNSEEN} to add them" if not has_them and self.collects_labels else ""
        counts = len(unseen), len(entries)
        _log.info("%s: labels without a text %s: %d of %d%s", self._file, then, *counts, remedy)
        return unseen if has_them else []
