"""HTTP connections with deadlines and limits that apply before a request reaches the API.

uvicorn only closes connections that are idle between two requests. This module handles clients that send the head of a
request one byte at a time, never read the response, or open thousands of connections.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cxml.operating_system import open_files_limit

_HEAD_BYTES = 64 << 10
_HEADERS = 100
_PIPELINED = 8
_CONNECTIONS = 500


def _most_connections() -> int:
    """Half of the file descriptors that the process may open."""
    limit = open_files_limit()
    return _CONNECTIONS if limit is None else min(_CONNECTIONS, limit // 2)


@dataclass
class ConnectionLimits:
    """The limits of one server's connections, and the connections that wait for their client."""

    head_s: float
    """Seconds from the connection, or from the last answer, until the head of a request is complete."""
    answer_s: float
    """Seconds for a client to read a response that exceeds the system's buffers."""
    message_bytes: int
    """Most bytes of a request on the wire."""
    most: int = field(default_factory=_most_connections)
    """Most simultaneous connections."""
    waiting: dict[GuardedConnection, None] = field(default_factory=dict)
    """Connections without a complete request, longest wait first."""


class GuardedConnection(HttpToolsProtocol):
    """One connection. Pass `functools.partial(GuardedConnection, limits=...)` to `uvicorn.Config(http=...)`.

    A connection beyond the limit replaces the one that has waited longest for its client, so slow clients cannot block
    others.
    """

    def __init__(self, *args: Any, limits: ConnectionLimits, **kwargs: Any) -> None:  # noqa: ANN401 - uvicorn's
        super().__init__(*args, **kwargs)
        self._limits = limits
        self._deadline: asyncio.TimerHandle | None = None
        self._is_in_head = True
        self._size = 0
        self._reason = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Enforce the limit of connections, and start to wait for a request."""
        super().connection_made(transport)
        if len(self.connections) > self._limits.most:
            longest = next(iter(self._limits.waiting), self)
            longest.transport.abort()
            self._limits.waiting.pop(longest, None)
        self._wait_for_request(self._limits.head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._stop_waiting()
        self._limits.waiting.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse the data. A head or message that exceeds its limit ends the connection."""
        if self._size > (_HEAD_BYTES if self._is_in_head else self._limits.message_bytes):
            self.transport.abort()
        elif not self.transport.is_closing():
            self._size += len(data)
            super().data_received(data)

    def on_message_begin(self) -> None:
        """A request begins."""
        self._is_in_head, self._size = True, 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header, or a trailer after a chunked body."""
        if len(self.headers) >= _HEADERS:
            raise ValueError("too many headers")  # the parser answers 400
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is complete. From here the API enforces the limits of the body."""
        if not self.url.startswith((b"/", b"*")):
            raise ValueError("the target is an absolute URL, whose host would override the header")
        if len(self.pipeline) >= _PIPELINED:
            raise ValueError("too many pipelined requests")
        assert self.parser is not None
        if self.parser.should_upgrade() and self._has_body():
            # The parser would read the body as the next request.
            self._reason = "A request with a body cannot ask for an upgrade: send HTTP/1.1 without the header Upgrade."
            raise ValueError(self._reason)
        super().on_headers_complete()
        self._is_in_head = False
        self._stop_waiting()

    def on_message_complete(self) -> None:
        """The request is complete, and the client waits for the server."""
        super().on_message_complete()
        self._is_in_head, self._size = True, 0
        if not self.cycle.response_complete:
            self._limits.waiting.pop(self, None)

    def on_response_complete(self) -> None:
        """The response is written, at least into the system's buffers."""
        super().on_response_complete()
        if self.cycle.response_complete:
            is_read = self.transport.get_write_buffer_size() == 0
            self._wait_for_request(self._limits.head_s if is_read else self._limits.answer_s)

    def send_400_response(self, msg: str) -> None:
        """Reject a malformed request, and close the connection."""
        super().send_400_response(self._reason or msg)

    def _has_body(self) -> bool:
        headers = dict(self.headers)
        return b"transfer-encoding" in headers or int(headers.get(b"content-length", 0)) > 0

    def _wait_for_request(self, seconds: float) -> None:
        self._stop_waiting()
        self._limits.waiting.pop(self, None)
        self._limits.waiting[self] = None
        self._deadline = self.loop.call_later(seconds, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None
