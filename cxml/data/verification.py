"""Verify checksums and values of a split's files once per node, for any number of processes.

A process that has verified the files writes a note to the node's cache folder. Its name depends on the files' inodes,
sizes and times, so changed files need a new verification. Other processes trust the note for a day.
"""

from __future__ import annotations

import hashlib
import os
import platform
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from multiprocessing.pool import ThreadPool
from pathlib import Path

from filelock import FileLock

from cxml.artefacts import MappedFile
from cxml.data.cache import cache_folder
from cxml.errors import ConfigError

_NOTE_SECONDS = 24 * 3600
_RECENT_SECONDS = 2.0  # a file that changed so recently can change again with the same time
_MOST_THREADS = 4


class Verification:
    """Verification of files in a background thread, from `start` on."""

    def __init__(self, files: Sequence[MappedFile], check_values: Callable[[int], None], facts: str) -> None:
        """Create the verification without starting it.

        Args:
            files: files to compare with their checksums.
            check_values: checks the values of the file with this number.
            facts: inputs of `check_values` besides the files.
        """
        self._files = files
        self._check_values = check_values
        self._facts = facts
        self._lock = threading.Lock()
        self._outcome: Future[None] | None = None

    def start(self) -> None:
        """Start, unless started before."""
        with self._lock:
            if self._outcome is None:
                self._outcome = Future()
                # A daemon thread, so that a failing process does not wait for it.
                threading.Thread(target=self._run, args=(self._outcome,), name="cxml-verify", daemon=True).start()

    def wait(self) -> None:
        """Wait for the result. Later calls return at once.

        Raises:
            DataError: a file is damaged, or contains invalid values.
        """
        if self._outcome is None:
            self.start()
        assert self._outcome is not None, "just begun"
        self._outcome.result()

    def _run(self, outcome: Future[None]) -> None:
        try:
            self._check_once_per_node()
        except BaseException as error:
            outcome.set_exception(error)
        else:
            outcome.set_result(None)

    def _check_once_per_node(self) -> None:
        note = self._note()
        if note is None:
            self._check_all()
            return
        with FileLock(note.with_suffix(".lock")):
            if not _is_fresh(note):
                self._check_all()
                if time.time() - max(file.changed_at for file in self._files) > _RECENT_SECONDS:
                    note.touch()
                    _forget_old_notes(note.parent)

    def _note(self) -> Path | None:
        """The note of these files; None if this node has no writable cache folder."""
        parts = [platform.node(), self._facts, *(file.identity for file in self._files)]
        try:
            folder = cache_folder() / "verified"
            folder.mkdir(parents=True, exist_ok=True)
            note = folder / hashlib.sha256("\n".join(parts).encode()).hexdigest()
            note.with_suffix(".lock").touch()
        except (OSError, ConfigError):  # read-only, or no home folder
            return None
        return note

    def _check_all(self) -> None:
        with ThreadPool(min(_MOST_THREADS, os.cpu_count() or 1, len(self._files))) as pool:
            for _ in pool.imap_unordered(self._check_file, range(len(self._files))):
                pass

    def _check_file(self, number: int) -> None:
        self._files[number].verify()
        self._check_values(number)


def _is_fresh(note: Path) -> bool:
    try:
        return 0 <= time.time() - note.stat().st_mtime < _NOTE_SECONDS
    except FileNotFoundError:
        return False


def _forget_old_notes(folder: Path) -> None:
    for path in folder.iterdir():
        try:
            if time.time() - path.stat().st_mtime > _NOTE_SECONDS:
                path.unlink()
        except FileNotFoundError:
            continue
