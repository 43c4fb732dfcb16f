"""What a server is allowed to do, and when it turns requests away."""

from __future__ import annotations

from dataclasses import dataclass, field

from cxml.errors import ConfigError

_BYTES_PER_CHARACTER = 6  # of JSON, whatever the character: \\uXXXX
_REST_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Limits of a server; more than they allow is refused with a 4xx answer that says so.

    Attributes:
        max_texts: texts in a request.
        max_characters: of a text.
        max_k: labels per text.
        max_waiting: requests that wait; further ones are answered 429.
        timeout_s: seconds after which a request is answered 408.
        batch_texts: texts that are predicted together.
        batch_wait_ms: how long the first of them waits for others.
        token: what requests must bring as `Authorization: Bearer TOKEN`; empty: nothing.
    """

    max_texts: int = 64
    max_characters: int = 20_000
    max_k: int = 100
    max_waiting: int = 200
    timeout_s: float = 30.0
    batch_texts: int = 64
    batch_wait_ms: float = 5.0
    token: str = field(default="", repr=False)

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
