"""Start, reload and stop a server."""

from __future__ import annotations

import gc
import logging
import signal
import sys
import traceback
from contextlib import AbstractContextManager
from queue import Empty, SimpleQueue
from typing import Literal

from cxml import urls
from cxml.errors import CxmlError, WorkerError
from cxml.operating_system import RELOAD_SIGNAL, has_terminal, return_freed_memory
from cxml.serving.addresses import bind, listen, require_loopback, url_of
from cxml.serving.http_server import HttpServer
from cxml.serving.models import Model, ServedModel, ServingEngine
from cxml.serving.options import ServeOptions

_log = logging.getLogger(__name__)

_END_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SECONDS_BETWEEN_CHECKS = 5.0

Event = Literal["reload", "server ended"]


def serve_until_signalled(
    opened: AbstractContextManager[ServingEngine], url: str, options: ServeOptions, *, host: str, port: int
) -> None:
    """Serve the model until SIGINT or SIGTERM, which raise SystemExit with code 0, also while the model loads.

    Running requests are still answered. SIGHUP reloads the model.

    Args:
        opened: context manager of the engine, entered after the address was checked.
        url: location of the model, for its name.
        options: limits and token.
        host: address to listen on.
        port: port to listen on.

    Raises:
        DataError: the model is missing or incomplete.
        ConfigError: the port is in use, or other machines could send requests without a token.
        WorkerError: the model could not be started, or no model can answer any more; the message gives the reason.
    """
    sockets = bind(host, port)
    if not (options.token or options.allow_anyone):
        require_loopback(sockets, host)
    address = url_of(sockets[0])
    served = ServedModel(urls.name_of(url) or "model")
    events: SimpleQueue[Event] = SimpleQueue()  # the only queue that is safe to use in signal handlers
    with opened as engine:
        # After Ray, which sets its own handlers at start, and before the server reports that it is ready.
        _take_signals(events)
        listen(sockets)
        server = HttpServer(served, options, sockets, ended=lambda: events.put("server ended"))
        try:
            server.start()
            _serve(engine.load(), served)
            _log.info("Serving %s at %s (web page, /predict, /openapi.json)", served.name, address)
            _watch(engine, served, options, events, address)
        finally:
            server.end()
            if not engine.is_lost():
                served.replace(None)


def _watch(
    engine: ServingEngine, served: ServedModel, options: ServeOptions, events: SimpleQueue[Event], address: str
) -> None:
    """Check the model every few seconds, and reload it on request. Ends with WorkerError."""
    while True:
        with served.in_use() as model:
            is_answering = model is not None and model.is_answering(options.timeout_s)
        served.status = "ready" if is_answering else "not ready"
        if not is_answering and (why := engine.is_lost()):
            raise WorkerError(f"{address}: {why}")
        try:
            event = events.get(timeout=_SECONDS_BETWEEN_CHECKS)
        except Empty:
            continue
        if event == "server ended":
            raise WorkerError(f"{address}: the HTTP server ended. See its log for the reason.")
        _load_again(engine, served)


def _load_again(engine: ServingEngine, served: ServedModel) -> None:
    """Replace the served model by the current files; keep the old model if loading fails."""
    _log.info("Reloading the model")
    try:
        model = engine.load()
    except Exception as error:  # on any error, the previous model stays in service
        served.metrics.model_failed()
        reason = str(error) if isinstance(error, CxmlError) else "".join(traceback.format_exception(error))
        _log.error("Could not load the new model; the previous one is still served. %s", reason)
        return
    _serve(model, served)
    _log.info("Serving the new model")


def _serve(model: Model, served: ServedModel) -> None:
    """Serve a loaded model, and free the memory of its loading and of the previous model."""
    served.replace(model)
    served.metrics.model_loaded()
    gc.collect()  # a model contains reference cycles
    return_freed_memory()


def _take_signals(events: SimpleQueue[Event]) -> None:
    """End on SIGINT and SIGTERM. On SIGHUP reload the model, or end if the terminal was closed."""
    for number in _END_SIGNALS:
        signal.signal(number, _end)
    if RELOAD_SIGNAL is None:
        return
    lives_with_terminal = signal.getsignal(RELOAD_SIGNAL) is signal.SIG_DFL and has_terminal()

    def reload(*_: object) -> None:
        if lives_with_terminal and not has_terminal():
            _end()
        events.put("reload")

    signal.signal(RELOAD_SIGNAL, reload)


def _end(*_: object) -> None:
    for number in _END_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # a second signal would interrupt the cleanup
    sys.exit(0)
