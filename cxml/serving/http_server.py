"""The HTTP server in its own thread."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import uvicorn

from cxml.serving.api import build_api
from cxml.serving.connections import ConnectionLimits, GuardedConnection

if TYPE_CHECKING:
    import socket

    from cxml.serving.models import ServedModel
    from cxml.serving.options import ServeOptions


class HttpServer(threading.Thread):
    """The HTTP server. It answers while the main thread loads models and waits for signals.

    An event signals its end: in Python 3.11, a signal that interrupts `Thread.join` marks the thread as ended.
    """

    def __init__(
        self, served: ServedModel, options: ServeOptions, sockets: list[socket.socket],
        ended: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """Create the thread without starting it.

        Args:
            served: the model; it may still be loading.
            options: limits and token.
            sockets: bound sockets for the server to listen on.
            ended: called in the server's thread when the server has ended.
        """
        super().__init__(name="http", daemon=True)
        limits = ConnectionLimits(options.head_timeout_s, options.timeout_s, 2 * options.max_body_bytes)
        connection: Any = functools.partial(GuardedConnection, limits=limits)
        ending_s = options.body_timeout_s + options.timeout_s + options.head_timeout_s
        self._sockets = sockets
        self._tell = ended
        self._ended = threading.Event()
        self._server = uvicorn.Server(
            uvicorn.Config(
                build_api(served, options), http=connection, ws="none", lifespan="off", log_config=None,
                log_level="error", access_log=False, server_header=False, proxy_headers=False,
                timeout_graceful_shutdown=int(ending_s) + 1,
            )
        )  # fmt: skip

    def run(self) -> None:
        """Answer requests until `end`."""
        try:
            self._server.run(self._sockets)
        finally:
            self._ended.set()
            self._tell()

    def end(self) -> None:
        """Stop accepting connections, and wait until running requests are answered."""
        self._server.should_exit = True
        if self.ident is not None:
            self._ended.wait()
