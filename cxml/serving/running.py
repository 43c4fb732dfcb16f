"""Start a server and end it."""

from __future__ import annotations

import functools
import logging
import secrets
import signal
import socket
import sys
import threading
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from ray import serve
from ray.serve import Application
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from cxml import ray_cluster
from cxml.errors import WorkerError
from cxml.prediction import is_exported, model_identity
from cxml.serving.addresses import bind, require_loopback, url_of
from cxml.serving.api import ServedModel, build_api
from cxml.serving.connections import ConnectionLimits, GuardedConnection
from cxml.serving.options import ServeOptions
from cxml.serving.service import Asked, ModelPlace, answer_of, application

_log = logging.getLogger(__name__)

_END_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SECONDS_BETWEEN_CHECKS = 5.0


def serve_until_signalled(
    place: ModelPlace, options: ServeOptions, *, host: str, port: int, num_replicas: int, cpus: float,
    device: ray_cluster.Device = "auto",
) -> None:  # fmt: skip
    """Serve the model until SIGINT or SIGTERM, which raise SystemExit with code 0, also while the model loads.

    Requests that are being answered then still get their answers.

    Raises:
        DataError: there is no whole model.
        ConfigError: the port is taken, or other machines could ask without a token.
        WorkerError: the model did not come up, or nothing can be served any more; says why.
    """
    if not is_exported(place.url):
        model_identity(place.url)  # here rather than in a worker, where the error would be one of many lines
    sockets = bind(host, port)
    if not (options.token or options.allow_anyone):
        require_loopback(sockets, host)
    address = url_of(sockets[0])
    served = ServedModel(name_of(place.url))
    with ray_cluster.joined_cluster(logs=True):
        # Only now, for Ray sets handlers of its own when it starts; and before anyone can see that the server is ready.
        for number in _END_SIGNALS:
            signal.signal(number, _end)
        name = f"cxml-{secrets.token_hex(4)}"  # a cluster may serve other models
        front = Front(served, options, sockets)
        try:
            front.start()
            resources = ray_cluster.worker_resources(device, cpus, num_replicas)
            handle = _deployed(name, place, application(place, options, num_replicas=num_replicas, resources=resources))
            served.num_labels = handle.num_labels.remote().result()
            served.answer = answer_of(handle)
            _log.info("Serving %s at %s (a page to try it on, /predict, /openapi.json)", served.name, address)
            pause = 0.0  # the first check makes it ready
            while not front.has_ended(pause):
                pause = _SECONDS_BETWEEN_CHECKS
                served.status = "ready" if _answers(handle, options) else "not ready"
                if served.status != "ready" and ray_cluster.is_lost():
                    raise WorkerError(f"{address}: this machine's node of Ray has died. Start the command again.")
            raise WorkerError(f"{address}: the HTTP server ended. Its log says why.")
        finally:
            front.end()
            if not ray_cluster.is_lost():  # else Ray would wait for it without end
                _remove(name)


class Front(threading.Thread):
    """The HTTP server, in a thread of its own: it answers while the main thread waits for Ray.

    An event tells its end, for a signal that ends `Thread.join` makes Python 3.11 take a thread for ended.
    """

    def __init__(self, served: ServedModel, options: ServeOptions, sockets: list[socket.socket]) -> None:
        super().__init__(name="http", daemon=True)
        limits = ConnectionLimits(options.head_timeout_s, options.timeout_s, 2 * options.max_body_bytes)
        connection: Any = functools.partial(GuardedConnection, limits=limits)
        ending_s = options.body_timeout_s + options.timeout_s + options.head_timeout_s
        self._sockets = sockets
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

    def has_ended(self, seconds: float) -> bool:
        """Whether the server ends within so many seconds."""
        return self._ended.wait(seconds)

    def end(self) -> None:
        """Accept no connections any more, and wait until the requests under way are answered."""
        self._server.should_exit = True
        if self.ident is not None:
            self._ended.wait()


def name_of(url: str) -> str:
    """What clients see of a model's place: the last part of its path, without folders, credentials and queries."""
    path = urlsplit(url.split("::", maxsplit=1)[0]).path if "://" in url else url
    return PurePosixPath(path).name.strip(".") or "model"


def _deployed(name: str, place: ModelPlace, model: Application) -> DeploymentHandle:
    """The model on the cluster, without an HTTP proxy of Ray Serve in front of it."""
    serve.start(proxy_location="Disabled")
    try:
        return serve.run(model, name=name, route_prefix=None)
    except (RayServeException, RuntimeError) as error:
        raise WorkerError(f"{place.url}: the model is not served. {error}") from error


def _answers(handle: DeploymentHandle, options: ServeOptions) -> bool:
    """Whether the model labels a word now; a full queue is a sign of life too."""
    try:
        handle.answer.remote(Asked(["ready"], 1, False)).result(timeout_s=options.timeout_s)
    except BackPressureError:
        return True
    except Exception as error:  # whatever is wrong, it is not ready
        _log.warning("The model does not answer: %s", type(error).__name__)
        return False
    return True


def _remove(name: str) -> None:
    """Take the model off the cluster, and Ray Serve too if it serves nothing else."""
    if serve.status().applications.keys() - {name}:
        serve.delete(name)
    else:
        serve.shutdown()


def _end(*_: object) -> None:
    for number in _END_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # a second one would break off the cleaning up
    sys.exit(0)
