"""The model as a Ray Serve application: replicas on a cluster, behind the command's HTTP server."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ray import serve
from ray.exceptions import RayActorError, RayTaskError, TaskCancelledError
from ray.serve import Application
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from cxml import ray_cluster
from cxml.errors import WorkerError
from cxml.internals.ray import open_no_replica_port
from cxml.prediction import is_exported, model_identity
from cxml.serving.api import failed, not_answering, queue_full
from cxml.serving.batching import Batcher, PredictRequest
from cxml.serving.models import CHECK_TEXTS, ModelSpec, load_checked
from cxml.serving.options import ServeOptions

_log = logging.getLogger(__name__)

_ONGOING_PER_REPLICA = 64


class Service:
    """One replica: a process with the model."""

    def __init__(self, spec: ModelSpec, options: ServeOptions) -> None:
        """Load the model. Raises what `load_checked` raises."""
        # Ray Serve would listen on all interfaces, and unpickle any message without authentication.
        open_no_replica_port()
        self._batcher = Batcher(
            lambda: load_checked(spec, options), batch_texts=options.batch_texts,
            batch_wait_s=options.batch_wait_ms / 1000,
            max_waiting=2 * _ONGOING_PER_REPLICA,  # Ray sends fewer; the rest wait in its own queue
        )  # fmt: skip
        predictor = self._batcher.predictor
        self._facts = len(predictor.names), tuple(predictor.parts.decisions.thresholds)

    def facts(self) -> tuple[int, tuple[str, ...]]:
        """L, and the names of the thresholds."""
        return self._facts

    async def answer(self, request: PredictRequest) -> bytes:
        """The labels of a request's texts, as JSON: the text of an answer."""
        return await asyncio.wrap_future(self._batcher.submit(request))


def application(
    spec: ModelSpec, options: ServeOptions, *, num_replicas: int, resources: Mapping[str, float]
) -> Application:
    """The deployment, ready for `serve.run`.

    Args:
        spec: the model.
        options: limits.
        num_replicas: processes, each with the model.
        resources: resources of each replica, see `cxml.ray_cluster.worker_resources`.
    """
    deployment: Any = serve.deployment(
        name="cxml", num_replicas=num_replicas,
        ray_actor_options={"num_cpus": resources["CPU"], "num_gpus": resources.get("GPU", 0)},
        max_ongoing_requests=_ONGOING_PER_REPLICA, max_queued_requests=options.max_waiting,
        max_constructor_retry_count=1,
        logging_config={"log_level": logging.WARNING, "enable_access_log": False},
    )(Service)  # fmt: skip
    return deployment.bind(spec, options)


@contextmanager
def ray_engine(
    spec: ModelSpec, options: ServeOptions, *, num_replicas: int, cpus: float = 1.0,
    device: ray_cluster.Device = "auto",
) -> Iterator[RayEngine]:  # fmt: skip
    """Yield an engine on the Ray cluster of RAY_ADDRESS, or on a temporary local cluster.

    Raises:
        DataError: the model is missing or incomplete.
    """
    if not is_exported(spec.url):
        model_identity(spec.url)  # checked here, because an error in a worker would be hidden among many lines
    with ray_cluster.joined_cluster(logs=True):
        engine = RayEngine(spec, options, num_replicas, cpus, device)
        try:
            yield engine
        finally:
            engine.close()


class RayEngine:
    """Loads models into replicas; each model is a separate application."""

    def __init__(
        self, spec: ModelSpec, options: ServeOptions, num_replicas: int, cpus: float, device: ray_cluster.Device
    ) -> None:
        self._spec, self._options, self._num_replicas = spec, options, num_replicas
        self._cpus: float = cpus
        self._device: ray_cluster.Device = device
        self._names: set[str] = set()
        self._has_started = False

    def load(self) -> RayModel:
        """See `ServingEngine`. Also raises WorkerError if the cluster lacks resources for a second model."""
        resources = ray_cluster.worker_resources(self._device, self._cpus, self._num_replicas)
        if self._names:
            _require_room(resources, self._num_replicas)
        name = f"cxml-{secrets.token_hex(4)}"  # a cluster may serve other models
        serve.start(proxy_location="Disabled")
        self._has_started = True
        self._names.add(name)
        deployed = application(self._spec, self._options, num_replicas=self._num_replicas, resources=resources)
        try:
            handle = serve.run(deployed, name=name, route_prefix=None)
            num_labels, names = handle.facts.remote().result()
            return RayModel(handle, num_labels=num_labels, threshold_names=names, end=lambda: self._remove(name))
        except (RayServeException, RuntimeError) as error:
            self._remove(name)
            raise WorkerError(f"{self._spec.url}: the model could not be served. {error}") from error

    def is_lost(self) -> str:
        """See `ServingEngine`."""
        return "this machine's Ray node died. Restart the command." if ray_cluster.is_lost() else ""

    def close(self) -> None:
        """Remove all models from the cluster, and Ray Serve too if it serves nothing else."""
        if not self._has_started or ray_cluster.is_lost():  # Ray would wait for a lost node forever
            return
        if serve.status().applications.keys() - self._names:
            for name in self._names:
                serve.delete(name)
        else:
            serve.shutdown()

    def _remove(self, name: str) -> None:
        serve.delete(name)
        self._names.discard(name)


def _require_room(resources: Mapping[str, float], num_replicas: int) -> None:
    """Check that the cluster has resources for the replicas, because Ray would wait for them forever.

    Raises:
        WorkerError: the cluster lacks resources.
    """
    free = ray_cluster.free_resources()
    for name, share in resources.items():
        if free.get(name, 0.0) < share * num_replicas:
            raise WorkerError(
                f"The cluster has {free.get(name, 0.0):g} {name} free, and {num_replicas} replicas of the new model "
                f"in addition to the old ones need {share * num_replicas:g}. Add nodes, or restart the command."
            )


class RayModel:
    """A model on a cluster, see `Model`."""

    def __init__(
        self, handle: DeploymentHandle, *, num_labels: int, threshold_names: tuple[str, ...], end: Callable[[], None]
    ) -> None:
        self._handle, self._end = handle, end
        self.num_labels, self.threshold_names = num_labels, threshold_names

    async def answer(self, request: PredictRequest) -> bytes:
        """See `Model`."""
        response: Any = self._handle.answer.remote(request)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except BackPressureError:
            raise queue_full() from None
        except RayTaskError:  # the replica has logged it
            raise failed() from None
        except (RayActorError, RayServeException, TaskCancelledError) as error:
            _log.warning("A replica did not respond: %s", type(error).__name__)
            raise not_answering() from None

    def is_answering(self, seconds: float) -> bool:
        """See `Model`."""
        try:
            self._handle.answer.remote(PredictRequest(CHECK_TEXTS, 1, False)).result(timeout_s=seconds)
        except BackPressureError:
            return True
        except Exception as error:  # any error means that it is not ready
            _log.warning("The model does not respond: %s", type(error).__name__)
            return False
        return True

    def close(self) -> None:
        """See `Model`."""
        self._end()
