"""Requests with a body: token, content type and length are checked before the body is read."""

from __future__ import annotations

import asyncio
import email.message
import hmac
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from cxml.serving.bounded_json import UnreadableError, read_object

if TYPE_CHECKING:
    from starlette.types import Receive, Scope

    from cxml.serving.options import ServeOptions

_OTHER_VALUES = 16  # names and values besides its texts, with a margin for unknown fields


class HeldBytes:
    """Counts the bytes of all requests in progress, and rejects requests that would exceed the limit."""

    def __init__(self, most: int) -> None:
        self._most, self._held = most, 0

    @contextmanager
    def held(self) -> Iterator[Callable[[int], None]]:
        """Yield a function that adds bytes. They are released at the end, or when it raises HTTPException(503)."""
        own = 0

        def add(count: int) -> None:
            nonlocal own
            if self._held + count > self._most:
                self._held, own = self._held - own, 0  # released at once, or other requests would be rejected too
                raise HTTPException(503, "requests take all the memory they may; try again", {"Retry-After": "1"})
            own += count
            self._held += count

        try:
            yield add
        finally:
            self._held -= own


class BoundedRequest(Request):
    """A request whose body is limited in size, time and shape."""

    def __init__(self, scope: Scope, receive: Receive, options: ServeOptions, hold: Callable[[int], None]) -> None:
        super().__init__(scope, receive)
        self._options, self._hold = options, hold

    async def body(self) -> bytes:
        """The body. Raises HTTPException if it is too long or too slow."""
        if not hasattr(self, "_body"):
            try:
                self._body = await asyncio.wait_for(self._arriving(), self._options.body_timeout_s)
            except asyncio.TimeoutError:
                raise HTTPException(
                    408, f"the body did not arrive within {self._options.body_timeout_s:g} seconds"
                ) from None
            except ClientDisconnect:
                raise HTTPException(400, "the client disconnected") from None
        return self._body

    async def _arriving(self) -> bytes:
        body = bytearray()
        async for part in self.stream():
            if len(body) + len(part) > self._options.max_body_bytes:
                raise too_long(self._options)
            self._hold(len(part))
            body += part
        return bytes(body)

    async def json(self) -> dict[str, Any]:
        """The members of the body. Raises HTTPException if it is not an object of texts."""
        limits = self._options
        try:
            return await read_object(
                await self.body(), most_values=limits.max_texts + _OTHER_VALUES, most_bytes=limits.max_text_bytes
            )
        except UnreadableError as error:
            reason = {"type": "unreadable", "loc": ["body"], "msg": f"the body was rejected: {error}"}
            raise HTTPException(422, [reason]) from None


def too_long(options: ServeOptions) -> HTTPException:
    """The error for a body that exceeds the limit in bytes."""
    return HTTPException(413, f"the request has more than {options.max_body_bytes} bytes; send fewer texts per request")


def guarded_route(options: ServeOptions) -> type[APIRoute]:
    """The class of routes that check a request before its body is read, in this order: token, content type, length."""
    budget = HeldBytes(options.max_held_bytes)

    class GuardedRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            """The route's own handler, behind the checks."""
            handler = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                if options.token:
                    _require_token(request, options.token)
                _require_json(request)
                if int(request.headers.get("content-length", 0)) > options.max_body_bytes:
                    raise too_long(options)
                with budget.held() as hold:
                    return await handler(BoundedRequest(request.scope, request.receive, options, hold))

            return guarded

    return GuardedRoute


def _require_token(request: Request, token: str) -> None:
    given = request.headers.getlist("authorization")
    scheme, _, secret = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    if scheme.lower() != "bearer" or not hmac.compare_digest(secret.strip().encode(), token.encode()):
        raise HTTPException(401, "a token is required: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})


def _require_json(request: Request) -> None:
    """Require JSON: pages of other origins can send forms and plain text without a preflight request, but not JSON."""
    message = email.message.Message()
    message["content-type"] = request.headers.get("content-type", "")
    if message.get_content_type() != "application/json":
        raise HTTPException(415, "the body must be JSON: Content-Type: application/json")
