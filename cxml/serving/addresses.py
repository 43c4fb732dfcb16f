"""Access to the server: the addresses that it listens on, and the allowed hosts in requests."""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse

from cxml.errors import ConfigError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_MOST_PORT = 65535
_HOST = re.compile(rb"(?:([A-Za-z0-9.-]+)|\[([0-9A-Fa-f:.]+)\])(?::[0-9]{1,5})?")
_ORIGIN = re.compile(rb"https?://(.+)")


def bind(host: str, port: int) -> list[socket.socket]:
    """Bind sockets to every address of a host, without listening yet.

    Raises:
        ConfigError: no address of the host belongs to this machine, the port is in use, or it is not a port.
    """
    if not 0 <= port <= _MOST_PORT:
        raise ConfigError("--port", port, "is not a port", f"Choose one up to {_MOST_PORT}, or 0 for a free one.")
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigError("--host", host, f"has no address ({error})", "Use an address of this machine.") from error
    for family, kind, protocol, _, address in dict.fromkeys(found):
        one = socket.socket(family, kind, protocol)
        try:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6 and len(found) > 1:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            port_of_first = sockets[0].getsockname()[1] if sockets else port
            one.bind((address[0], port_of_first, *address[2:]))
        except OSError as error:
            one.close()
            if error.errno == errno.EADDRNOTAVAIL:
                continue  # localhost resolves to ::1 even on machines without IPv6
            _close(sockets)
            raise _cannot_listen(port, error) from error
        sockets.append(one)
    if not sockets:
        raise ConfigError("--host", host, "is not an address of this machine", "Use one, such as 127.0.0.1.")
    return sockets


def listen(sockets: list[socket.socket]) -> None:
    """Listen on bound sockets. Several processes can bind a port as long as none of them listens.

    Raises:
        ConfigError: another process listens already; the sockets are closed.
    """
    try:
        for one in sockets:
            one.listen()
    except OSError as error:
        port = sockets[0].getsockname()[1]
        _close(sockets)
        raise _cannot_listen(port, error) from error


def require_loopback(sockets: list[socket.socket], host: str) -> None:
    """Close the sockets and raise an error if other machines can reach one of them.

    Raises:
        ConfigError: an address does not belong to the loopback interface.
    """
    if not all(_is_loopback(one.getsockname()[0]) for one in sockets):
        _close(sockets)
        raise ConfigError(
            "--host", host, "other machines can reach this address, and no token is set",
            "Set CXML_SERVE_TOKEN to a secret, or pass --allow-anyone to serve everyone who can reach the server.",
        )  # fmt: skip


def url_of(bound: socket.socket) -> str:
    """The URL of a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _cannot_listen(port: int, error: OSError) -> ConfigError:
    return ConfigError("--port", port, f"cannot listen on it ({error})", "Choose another port.")


def _close(sockets: list[socket.socket]) -> None:
    for one in sockets:
        one.close()


def _is_loopback(host: str) -> bool:
    """Whether a host is `localhost` or a loopback address in the usual notation."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


class LoopbackOnly:
    """ASGI middleware for a server without a token: accepts only loopback hosts and requests from its own page.

    It prevents DNS rebinding: a foreign page can resolve its own name to 127.0.0.1, but the browser then sends that
    name as `Host`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        reason = _distrust(scope["headers"]) if scope["type"] == "http" else None
        if reason:
            await JSONResponse({"detail": reason}, 421)(scope, receive, send)
        else:
            await self._app(scope, receive, send)


def _distrust(headers: list[tuple[bytes, bytes]]) -> str | None:
    """The reason to reject a request, or None."""
    hosts = [value for name, value in headers if name == b"host"]
    host = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    if not host or not _is_loopback((host[1] or host[2]).decode()):
        return "without a token, the server only accepts loopback hosts such as 127.0.0.1 and localhost"
    for name, value in headers:
        if name == b"origin":
            origin = _ORIGIN.fullmatch(value)
            if not origin or origin[1].lower() != hosts[0].lower():
                return "without a token, the server only accepts requests from its own page, not from other origins"
    return None
