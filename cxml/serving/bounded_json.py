"""Parse the JSON of a request at a cost bounded by its size.

A general parser builds any structure: 7 MB of empty lists take seconds and hundreds of megabytes. A request is an
object of scalars and of lists of scalars, so this parser rejects everything else at the first occurrence.
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
    """A rejected body. The message gives the reason, without the content."""


async def read_object(body: bytes, *, most_values: int, most_bytes: int) -> dict[str, Any]:
    """Parse a JSON object whose values are scalars or lists of scalars.

    It yields to other tasks after every `_BYTES_BETWEEN_RESTS`, between two values.

    Args:
        body: UTF-8 text.
        most_values: most names, scalars and lists in total.
        most_bytes: most bytes of an encoded string.

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
    """A position in a body, with the remaining limits."""

    def __init__(self, body: bytes, most_values: int, most_bytes: int) -> None:
        self._body, self.at = body, 0
        self._left, self._most_bytes = most_values, most_bytes

    def _next(self) -> bytes:
        """The first byte of the next token; empty at the end."""
        space = _SPACE.match(self._body, self.at)
        assert space
        self.at = space.end()
        return self._body[self.at : self.at + 1]

    def skips(self, token: bytes) -> bool:
        """Skip the next token if it is `token`. Returns whether it was."""
        if self._next() != token:
            return False
        self.at += len(token)
        return True

    def expect(self, token: bytes) -> None:
        """Consume `token`; an empty token means the end."""
        if not self.skips(token):
            raise UnreadableError("it is not one JSON object" if token in (b"{", b"") else "it is not valid JSON")

    def ends(self, token: bytes, *, is_first: bool) -> bool:
        """Whether a list or an object ends here; otherwise move to its next member."""
        if self.skips(token):
            return True
        if not is_first:
            self.expect(b",")
        return False

    def scalar(self) -> Any:  # noqa: ANN401 - JSON
        """Consume a string, a number, a boolean or null."""
        self._left -= 1
        if self._left < 0:
            raise UnreadableError("it has more values than the limits allow")
        first = self._next()
        if first in (b"{", b"["):
            raise UnreadableError("it has nested values, which requests do not have")
        token = _SCALAR.match(self._body, self.at, self.at + self._most_bytes)
        if not token:
            if first == b'"' and len(self._body) - self.at > self._most_bytes:
                raise UnreadableError("a string is longer than the limits allow")
            raise UnreadableError("it is not valid JSON")
        self.at = token.end()
        try:
            return json.loads(token[0].decode())
        except ValueError as error:  # bytes that are not UTF-8, or an invalid escape or number
            raise UnreadableError("it is not valid JSON") from error
