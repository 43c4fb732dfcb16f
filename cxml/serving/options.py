"""What a server is allowed to do, and when it turns requests away."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import tyro

from cxml.errors import ConfigError

_BYTES_PER_CHARACTER = 12  # in JSON at most: an emoji may be written as two escapes of six bytes
_REST_BYTES = 4096
_HELD_BYTES = 128 << 20


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Limits of a server; more than they allow is refused with a 4xx answer that says so."""

    max_texts: int = 64
    """Texts in a request."""
    max_characters: int = 20_000
    """Characters of a text; what is beyond the length of the training is cut off anyway."""
    max_k: int = 100
    """Labels per text."""
    max_waiting: int = 200
    """Requests that wait; further ones are answered 429."""
    timeout_s: float = 30.0
    """Seconds that a request waits for its answer before it is answered 408."""
    head_timeout_s: float = 5.0
    """Seconds in which the head of a request must arrive; also how long a connection may be idle."""
    body_timeout_s: float = 5.0
    """Seconds in which the body of a request must arrive; more of them for large requests over slow networks."""
    batch_texts: int = 256
    """Texts that are predicted together at most; more than 64 only as far as the model takes half a second for them."""
    batch_wait_ms: float = 5.0
    """Milliseconds that the first of them waits for others."""
    allow_anyone: bool = False
    """Without a token, also answer other machines and requests that name any host."""
    token: tyro.conf.Suppress[str] = field(default="", repr=False)
    """Requests must bring it as `Authorization: Bearer TOKEN`, unless it is empty. Not an option: others read those."""

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
            raise ConfigError("batch_wait_ms", self.batch_wait_ms, "must not be negative", "0 waits for nobody.")

        if any(not "!" <= character <= "~" for character in self.token):
            raise ConfigError(
                "CXML_SERVE_TOKEN", "...", "has characters that a header does not carry",
                "Use visible ASCII characters without spaces, such as those of: openssl rand -hex 32",
            )  # fmt: skip

    @property
    def max_text_bytes(self) -> int:
        """The most bytes of a text as JSON writes it."""
        return self.max_characters * _BYTES_PER_CHARACTER + 2

    @property
    def max_held_bytes(self) -> int:
        """The most bytes of all requests that are read or answered at the same time."""
        return max(_HELD_BYTES, 2 * self.max_body_bytes)

    @property
    def max_body_bytes(self) -> int:
        """The most that a request within the limits can have."""
        return self.max_texts * (self.max_text_bytes + 16) + _REST_BYTES
