"""A local file mapped into memory, which notices when somebody changes the file."""

from __future__ import annotations

import hashlib
import mmap
import os
from typing import BinaryIO

import numpy as np

from cxml.artefacts.files import Entry, check_size, wrong_checksum
from cxml.errors import DataError
from cxml.operating_system import read_at

_BLOCK_BYTES = 4 << 20


class MappedFile:
    """The bytes of an open file. A file that replaces it under the same name does not change them.

    Writing to the same file does, and no process can prevent that: `check_unchanged` tells. A read beyond the end of a
    file that is being cut off kills the process (SIGBUS), so callers check right before they read.
    """

    def __init__(self, stream: BinaryIO, where: str, entry: Entry, remedy: str, *, is_writable: bool = False) -> None:
        """Map an open file, and close it.

        Args:
            stream: of a regular local file.
            where: how errors name the file.
            entry: what its manifest states.
            remedy: what to do about a damaged file.
            is_writable: whether `content` can be written to; that changes memory only, never the file.

        Raises:
            DataError: the file has another size than stated.
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

    @property
    def identity(self) -> str:
        """Another text for another file, and for the same one after any change of it."""
        facts = os.fstat(self._descriptor)
        return f"{facts.st_dev}-{facts.st_ino}-{facts.st_size}-{facts.st_mtime_ns}-{facts.st_ctime_ns}"

    @property
    def changed_at(self) -> float:
        """When the file was last changed, in seconds since the epoch."""
        return os.fstat(self._descriptor).st_ctime

    def verify(self) -> None:
        """Compare the content with its checksum, which reads all of it.

        Raises:
            DataError: the file is damaged.
        """
        digest = hashlib.sha256()
        for start in range(0, self._entry.bytes, _BLOCK_BYTES):  # not by the map: a file cut off meanwhile is no crash
            digest.update(read_at(self._descriptor, min(_BLOCK_BYTES, self._entry.bytes - start), start))
        if digest.hexdigest() != self._entry.sha256:
            raise wrong_checksum(self.where, self.remedy)

    def check_unchanged(self) -> None:
        """Notice that the file was written to or cut off since it was mapped.

        Raises:
            DataError: it was; what the map holds is not to be used any more.
        """
        now, before = os.fstat(self._descriptor), self._facts
        if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise DataError(self.where, "was changed while it was mapped into memory", self.remedy)
        if now.st_ctime_ns != before.st_ctime_ns:  # renamed, or written to by someone who put the time back
            self.verify()
            self._facts = now
