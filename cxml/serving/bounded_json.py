"""JSON of a request, read at a cost that its size bounds.

A general parser builds whatever a body describes: 7 MB of empty lists take seconds and hundreds of megabytes. A
request is an object of scalars and of lists of scalars, so nothing else is read, and the first surprise ends it.
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

_BYTES_BETWEEN_RESTS = 16 << 10
_SPACE = re.compile(rb"[ \t\n\r]*")
_SCALAR = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|-?[0-9][0-9.eE+-]{0,40}|true|false|null', re.DOTALL)


class UnreadableError(ValueError):
    """A body that is not read; says why, without its content."""


async def read_object(body: bytes, *, most_values: int, most_bytes: int) -> dict[str, Any]:
    """The members of a JSON object whose values are scalars or lists of scalars.

    Other tasks run after every `_BYTES_BETWEEN_RESTS`, between two values.

    Args:
        body: UTF-8 text.
        most_values: names, scalars and lists, all together.
        most_bytes: of a string as it is written.

    Raises:
        UnreadableError: the body is not JSON, or not of this shape.
    """
    reader = _Reader(body, most_values, most_bytes)
    members: dict[str, Any] = {}
    reader.expect(b"{")
    while not reader.ends(b"}", is_first=not members):
        name = reader.scalar()
        if not isinstance(name, str):
            raise UnreadableError("it is not valid JSON")
        if name in members:
            raise UnreadableError("a name occurs twice")
        reader.expect(b":")
        members[name] = await _values(reader) if reader.skips(b"[") else reader.scalar()
    reader.expect(b"")
    return members


async def _values(reader: _Reader) -> list[Any]:
    values: list[Any] = []
    rested_at = reader.at
    while not reader.ends(b"]", is_first=not values):
        values.append(reader.scalar())
        if reader.at - rested_at >= _BYTES_BETWEEN_RESTS:
            rested_at = reader.at
            await asyncio.sleep(0)
    return values


class _Reader:
    """A place in a body, and how much may still be read from there."""

    def __init__(self, body: bytes, most_values: int, most_bytes: int) -> None:
        self._body, self.at = body, 0
        self._left, self._most_bytes = most_values, most_bytes

    def _next(self) -> bytes:
        """The first byte of the next token; nothing at the end."""
        space = _SPACE.match(self._body, self.at)
        assert space
        self.at = space.end()
        return self._body[self.at : self.at + 1]

    def skips(self, token: bytes) -> bool:
        """Whether the next token is this one; then it is behind the reader."""
        if self._next() != token:
            return False
        self.at += len(token)
        return True

    def expect(self, token: bytes) -> None:
        """Take this token; nothing stands for the end."""
        if not self.skips(token):
            raise UnreadableError("it is not one JSON object" if token in (b"{", b"") else "it is not valid JSON")

    def ends(self, token: bytes, *, is_first: bool) -> bool:
        """Whether a list or an object ends here; else the reader is before its next member."""
        if self.skips(token):
            return True
        if not is_first:
            self.expect(b",")
        return False

    def scalar(self) -> Any:  # noqa: ANN401 - JSON
        """Take a string, a number, a truth value or null."""
        self._left -= 1
        if self._left < 0:
            raise UnreadableError("it has more values than a request within the limits")
        first = self._next()
        if first in (b"{", b"["):
            raise UnreadableError("it has values within values, where a request has none")
        token = _SCALAR.match(self._body, self.at, self.at + self._most_bytes)
        if not token:
            if first == b'"' and len(self._body) - self.at > self._most_bytes:
                raise UnreadableError("a string is longer than any within the limits")
            raise UnreadableError("it is not valid JSON")
        self.at = token.end()
        try:
            return json.loads(token[0].decode())
        except ValueError as error:  # bytes that are not UTF-8, an escape or a number that JSON does not know
            raise UnreadableError("it is not valid JSON") from error
