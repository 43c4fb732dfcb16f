"""A memory-mapped local file that detects changes of the file."""

from __future__ import annotations

import hashlib
import mmap
import os
from typing import BinaryIO, NoReturn

import numpy as np

from cxml.artefacts.files import Entry, check_size, wrong_checksum
from cxml.errors import DataError
from cxml.operating_system import read_at

_BLOCK_BYTES = 4 << 20


class MappedFile:
    """The bytes of an open file. Replacing the file under the same name does not change them.

    Writing to the same file changes them, and no process can prevent that; `check_unchanged` detects it. Reading beyond
    the end of a truncated file kills the process (SIGBUS), so callers check immediately before they read.
    """

    def __init__(self, stream: BinaryIO, where: str, entry: Entry, remedy: str, *, is_writable: bool = False) -> None:
        """Map an open file, and close it.

        Args:
            stream: a regular local file.
            where: name of the file in error messages.
            entry: the file's entry in its manifest.
            remedy: how to fix a damaged file, for the error message.
            is_writable: whether `content` is writable. Writes change only the memory, never the file.

        Raises:
            DataError: the file's size differs from the entry.
        """
        with stream:
            self._descriptor = os.dup(stream.fileno())
        self.where = where
        self._entry = entry
        self.remedy = remedy
        self._facts = os.fstat(self._descriptor)
        check_size(where, entry, self._facts.st_size, remedy)
        access = mmap.ACCESS_COPY if is_writable else mmap.ACCESS_READ
        self._map = mmap.mmap(self._descriptor, entry.bytes, access=access)
        self.content = np.frombuffer(self._map, np.uint8)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or pickled: the copy would hold in memory what is mapped to save memory."""
        raise TypeError(
            f"{self.where} is memory-mapped, so it cannot be copied or pickled. Map it in each process, or load it "
            "without memory_map."
        )

    @property
    def identity(self) -> str:
        """A string that differs between files, and changes when the file changes."""
        facts = os.fstat(self._descriptor)
        return f"{facts.st_dev}-{facts.st_ino}-{facts.st_size}-{facts.st_mtime_ns}-{facts.st_ctime_ns}"

    @property
    def changed_at(self) -> float:
        """Time of the last change of the file, in seconds since the epoch."""
        return os.fstat(self._descriptor).st_ctime

    def verify(self) -> None:
        """Read the whole content and compare it with its checksum.

        Raises:
            DataError: the file is damaged.
        """
        digest = hashlib.sha256()
        for start in range(0, self._entry.bytes, _BLOCK_BYTES):  # reads, not the map: a truncated file must not crash
            digest.update(read_at(self._descriptor, min(_BLOCK_BYTES, self._entry.bytes - start), start))
        if digest.hexdigest() != self._entry.sha256:
            raise wrong_checksum(self.where, self.remedy)

    def check_unchanged(self) -> None:
        """Check that the file was not written to or truncated since it was mapped.

        Raises:
            DataError: the file was changed. The mapped content must not be used any more.
        """
        now, before = os.fstat(self._descriptor), self._facts
        if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise DataError(self.where, "was changed while it was memory-mapped", self.remedy)
        if now.st_ctime_ns != before.st_ctime_ns:  # renamed, or written to with the modification time restored
            self.verify()
            self._facts = now
