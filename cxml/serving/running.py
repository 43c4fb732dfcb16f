"""Start a server, load its model again when told to, and end it."""

from __future__ import annotations

import gc
import logging
import signal
import sys
import traceback
from contextlib import AbstractContextManager
from pathlib import PurePosixPath
from queue import Empty, SimpleQueue
from typing import Literal
from urllib.parse import urlsplit

from cxml.errors import CxmlError, WorkerError
from cxml.operating_system import RELOAD_SIGNAL, has_terminal, return_freed_memory
from cxml.serving.addresses import bind, require_loopback, url_of
from cxml.serving.front import Front
from cxml.serving.models import Engine, Model, ServedModel
from cxml.serving.options import ServeOptions

_log = logging.getLogger(__name__)

_END_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SECONDS_BETWEEN_CHECKS = 5.0

Event = Literal["reload", "front ended"]


def serve_until_signalled(
    opened: AbstractContextManager[Engine], url: str, options: ServeOptions, *, host: str, port: int
) -> None:
    """Serve the model until SIGINT or SIGTERM, which raise SystemExit with code 0, also while the model loads.

    Requests that are being answered then still get their answers. SIGHUP loads the model again.

    Args:
        opened: the engine, to be entered when the address is known to be good.
        url: where its model is, for its name.
        options: limits and token.
        host: address to listen on.
        port: port to listen on.

    Raises:
        DataError: the model is missing or incomplete.
        ConfigError: the port is taken, or other machines could ask without a token.
        WorkerError: the model did not come up, or nothing can be served any more; says why.
    """
    sockets = bind(host, port)
    if not (options.token or options.allow_anyone):
        require_loopback(sockets, host)
    address = url_of(sockets[0])
    served = ServedModel(name_of(url))
    events: SimpleQueue[Event] = SimpleQueue()  # the one queue that a handler of signals may put into
    with opened as engine:
        # Only now, for Ray sets handlers of its own when it starts; and before anyone can see that the server is ready.
        _take_signals(events)
        front = Front(served, options, sockets, ended=lambda: events.put("front ended"))
        try:
            front.start()
            _serve(engine.load(), served)
            _log.info("Serving %s at %s (a page to try it on, /predict, /openapi.json)", served.name, address)
            _watch(engine, served, options, events, address)
        finally:
            front.end()
            if not engine.is_lost():
                served.replace(None)


def _watch(
    engine: Engine, served: ServedModel, options: ServeOptions, events: SimpleQueue[Event], address: str
) -> None:
    """Ask the model every few seconds whether it answers, and load it again when told to. Ends with WorkerError."""
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
        if event == "front ended":
            raise WorkerError(f"{address}: the HTTP server ended. Its log says why.")
        _load_again(engine, served)


def _load_again(engine: Engine, served: ServedModel) -> None:
    """Put the model as its files are now in the place of the one that answers; keep that one if it fails."""
    _log.info("Loading the model again")
    try:
        model = engine.load()
    except Exception as error:  # whatever is wrong with the new model, the one before answers
        served.metrics.model_failed()
        reason = str(error) if isinstance(error, CxmlError) else "".join(traceback.format_exception(error))
        _log.error("The new model is not served; the one before goes on answering. %s", reason)
        return
    _serve(model, served)
    _log.info("The new model answers")


def _serve(model: Model, served: ServedModel) -> None:
    """Answer by a model that was loaded, and free what loading it and the one before have taken."""
    served.replace(model)
    served.metrics.model_loaded()
    gc.collect()  # a model has references in circles
    return_freed_memory()


def name_of(url: str) -> str:
    """What clients see of a model's place: the last part of its path, without folders, credentials and queries."""
    path = urlsplit(url.split("::", maxsplit=1)[0]).path if "://" in url else url
    return PurePosixPath(path).name.strip(".") or "model"


def _take_signals(events: SimpleQueue[Event]) -> None:
    """End on SIGINT and SIGTERM; on SIGHUP load the model again, or end if it says that the terminal is gone."""
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
        signal.signal(number, signal.SIG_IGN)  # a second one would break off the cleaning up
    sys.exit(0)
