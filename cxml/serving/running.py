"""Start a server and end it."""

from __future__ import annotations

import logging
import signal
import socket
import sys
import threading

from ray import serve
from ray.serve.exceptions import RayServeException

from cxml import ray_cluster
from cxml.errors import ConfigError, WorkerError
from cxml.prediction import is_exported, model_identity
from cxml.serving.options import ServeOptions
from cxml.serving.service import ModelPlace, application

_log = logging.getLogger(__name__)

_END_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def serve_until_signalled(
    place: ModelPlace, options: ServeOptions, *, host: str, port: int, num_replicas: int, cpus: float,
    device: ray_cluster.Device = "auto",
) -> None:  # fmt: skip
    """Serve the model until SIGINT or SIGTERM, which raise SystemExit with code 0, also while the model loads.

    Raises:
        DataError: there is no whole model.
        ConfigError: the port is taken.
        WorkerError: the model did not come up; says why.
    """
    if not is_exported(place.url):
        model_identity(place.url)  # here rather than in a worker, where the error would be one of many lines
    _require_free(host, port)
    with ray_cluster.joined_cluster(logs=True):
        # Only now, for Ray sets handlers of its own when it starts; and before anyone can see that the server is ready.
        for number in _END_SIGNALS:
            signal.signal(number, _end)
        try:
            serve.start(http_options={"host": host, "port": port, "request_timeout_s": options.timeout_s})
            try:
                resources = ray_cluster.worker_resources(device, cpus, num_replicas)
                serve.run(application(place, options, num_replicas=num_replicas, resources=resources))
            except (RayServeException, RuntimeError) as error:
                raise WorkerError(f"{place.url}: the model is not served. {error}") from error
            address = f"http://{host}:{port}"
            _log.info("Serving %s at %s (a page to try it on, /predict, /openapi.json)", place.url, address)
            if not options.token and host not in ("127.0.0.1", "localhost", "::1"):
                _log.warning("Anyone who reaches %s can ask: set CXML_SERVE_TOKEN to ask for a token", address)
            threading.Event().wait()
        finally:
            serve.shutdown()


def _end(*_: object) -> None:
    for number in _END_SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # a second one would break off the cleaning up
    sys.exit(0)


def _require_free(host: str, port: int) -> None:
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError as error:
            raise ConfigError("--port", port, f"cannot be listened on ({error})", "Choose another one.") from error
