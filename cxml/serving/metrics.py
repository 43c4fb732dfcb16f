"""Prometheus metrics of a server."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_PATHS = ("/predict", "/facts", "/health", "/ready", "/metrics", "/")


class Metrics:
    """Counters of one application."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        names = ["path", "status"]
        self._requests = Counter("cxml_requests", "Requests answered", names, registry=self._registry)
        self._seconds = Histogram("cxml_request_seconds", "Seconds until the answer", ["path"], registry=self._registry)
        self.texts = Counter("cxml_texts", "Texts of accepted requests", registry=self._registry)
        self._loads = Counter("cxml_model_loads", "Attempts to load a model", ["outcome"], registry=self._registry)
        self._loaded = Gauge(
            "cxml_model_loaded_timestamp_seconds", "Load time of the served model", registry=self._registry
        )
        for outcome in ("served", "failed"):
            self._loads.labels(outcome)  # starts at 0, so that the first failure is an increase

    def observe(self, path: str, status: int, seconds: float) -> None:
        """Count an answer. Unknown paths count as one, so clients cannot add time series."""
        known = path if path in _PATHS else "other"
        self._requests.labels(known, str(status)).inc()
        self._seconds.labels(known).observe(seconds)

    def model_loaded(self) -> None:
        """Count a model that was loaded and is served from now on."""
        self._loads.labels("served").inc()
        self._loaded.set_to_current_time()

    def model_failed(self) -> None:
        """Count a model that could not be loaded or was rejected."""
        self._loads.labels("failed").inc()

    def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class Measured:
    """ASGI middleware that counts answers and their latency."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()

        async def observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.observe(scope["path"], message["status"], time.perf_counter() - began)
            await send(message)

        await self._app(scope, receive, observed)
