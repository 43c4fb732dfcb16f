"""The limits and options of a server."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import tyro

from cxml.errors import ConfigError

_BYTES_PER_CHARACTER = 12  # most in JSON: an emoji may be two escapes of six bytes
_REST_BYTES = 4096
_HELD_BYTES = 128 << 20


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Limits of a server. Requests that exceed them get a 4xx answer with the reason."""

    max_texts: int = 64
    """Maximum number of texts per request."""
    max_characters: int = 20_000
    """Maximum number of characters per text. The model truncates texts to its training length anyway."""
    max_k: int = 100
    """Maximum number of labels per text."""
    max_waiting: int = 200
    """Maximum number of waiting requests; further requests get status 429."""
    timeout_s: float = 30.0
    """Timeout of a request in seconds; after it, the request gets status 408."""
    head_timeout_s: float = 5.0
    """Timeout in seconds for the head of a request, and for idle connections."""
    body_timeout_s: float = 5.0
    """Timeout in seconds for the body of a request. Increase it for large requests over slow networks."""
    batch_texts: int = 256
    """Maximum number of texts per batch. Batches above 64 are limited to half a second of the model's time."""
    batch_wait_ms: float = 5.0
    """Milliseconds that the first request of a batch waits for others."""
    allow_anyone: bool = False
    """Also accept requests from other machines and with any host name, without a token."""
    token: tyro.conf.Suppress[str] = field(default="", repr=False)
    """Required in requests as `Authorization: Bearer TOKEN` unless empty. Not an option, as those are visible."""

    def __post_init__(self) -> None:
        for name in (
            "max_texts", "max_characters", "max_k", "max_waiting", "timeout_s", "head_timeout_s", "body_timeout_s",
            "batch_texts",
        ):  # fmt: skip
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(
                    name, getattr(self, name), "must be a number above 0", "Leave it out for the default."
                )
        if not 0 <= self.batch_wait_ms < math.inf:
            raise ConfigError("batch_wait_ms", self.batch_wait_ms, "must not be negative", "Use 0 to never wait.")

        if any(not "!" <= character <= "~" for character in self.token):
            raise ConfigError(
                "CXML_SERVE_TOKEN", "...", "contains characters that are not allowed in a header",
                "Use visible ASCII characters without spaces, such as those of: openssl rand -hex 32",
            )  # fmt: skip

    @property
    def max_text_bytes(self) -> int:
        """Most bytes of a text in JSON."""
        return self.max_characters * _BYTES_PER_CHARACTER + 2

    @property
    def max_held_bytes(self) -> int:
        """Most bytes of all requests in progress."""
        return max(_HELD_BYTES, 2 * self.max_body_bytes)

    @property
    def max_body_bytes(self) -> int:
        """Most bytes of a request within the limits."""
        return self.max_texts * (self.max_text_bytes + 16) + _REST_BYTES
