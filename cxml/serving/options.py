"""What a server is allowed to do, and when it turns requests away."""

from __future__ import annotations

from dataclasses import dataclass, field

import tyro

from cxml.errors import ConfigError

_BYTES_PER_CHARACTER = 6  # of JSON, whatever the character: \\uXXXX
_REST_BYTES = 4096


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
    """Seconds after which a request is answered 408."""
    batch_texts: int = 64
    """Texts that are predicted together."""
    batch_wait_ms: float = 5.0
    """Milliseconds that the first of them waits for others."""
    token: tyro.conf.Suppress[str] = field(default="", repr=False)
    """What requests must bring as `Authorization: Bearer TOKEN`; empty: nothing. No option: others read those."""

    def __post_init__(self) -> None:
        for name in ("max_texts", "max_characters", "max_k", "max_waiting", "timeout_s", "batch_texts"):
            if getattr(self, name) <= 0:
                raise ConfigError(name, getattr(self, name), "must be above 0", "Leave it out for the default.")
        if self.batch_wait_ms < 0:
            raise ConfigError("batch_wait_ms", self.batch_wait_ms, "must not be negative", "0 waits for nobody.")

    @property
    def max_body_bytes(self) -> int:
        """The most that a request within the limits can have."""
        return self.max_texts * (self.max_characters * _BYTES_PER_CHARACTER + 16) + _REST_BYTES
