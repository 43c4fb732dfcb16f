"""Jobs on the workers of Ray Train, which places them on the cluster and restarts them if one is lost."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar, cast

# Ray Train reads it when it is imported.
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")

from ray.train import FailureConfig, Result, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from cxml import ray_cluster, storage
from cxml.config import Config
from cxml.errors import WorkerError
from cxml.parallel import collective_timeout, loopback_environment
from cxml.progress import progress_as_lines

_T = TypeVar("_T")

# Workers choose these themselves, as with other launchers, and use this process's module search path.
_PASSED_ON = ("OMP_NUM_THREADS", "PYTHONPATH", "CXML_CACHE", "CXML_CACHE_GIB")


def run_on_ray(work: Callable[..., _T], arguments: tuple[object, ...], num_workers: int, *, config: Config) -> _T:
    """Run `work(*arguments)` in the workers of a Ray Train run, with an initialised process group.

    A job that loses a worker is restarted up to `launch.max_failures` times, with as many workers as the cluster then
    has room for. Training resumes from its newest checkpoint.

    Args:
        work: a function of an installed module.
        arguments: picklable values.
        num_workers: processes wanted.
        config: the run's config; its `launch` section gives the resources of a worker and the least number of workers.

    Returns:
        The result of rank 0.

    Raises:
        WorkerError: the job failed more often than allowed. The message contains the last failure.
    """
    launch = config.launch
    fewest = min(launch.min_workers or num_workers, num_workers)
    with ray_cluster.joined_cluster(logs=True):
        resources = ray_cluster.worker_resources(launch.device, launch.cpus_per_worker)
        use_gpu = "GPU" in resources
        trainer = TorchTrainer(
            lambda: work(*arguments),
            scaling_config=ScalingConfig(
                num_workers=(fewest, num_workers) if fewest < num_workers else num_workers,
                use_gpu=use_gpu,
                resources_per_worker=resources,
            ),
            torch_config=TorchConfig(
                backend=None if use_gpu else "gloo",
                timeout_s=int(collective_timeout(config.train.hang_minutes).total_seconds()),
            ),
            run_config=RunConfig(
                name=f"cxml-{work.__name__}",
                storage_path=_absolute(storage.join(config.output, "ray")),
                failure_config=FailureConfig(max_failures=launch.max_failures),
                worker_runtime_env={"env_vars": _environment(use_gpu)},
            ),
        )
        try:
            return cast(_T, _fit(trainer).return_value)
        except TrainingFailedError as error:
            raise _own_words(error, num_workers) from None


def _environment(use_gpu: bool) -> dict[str, str]:
    """The environment variables that workers inherit, and those that select their device."""
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    environment |= progress_as_lines()
    if ray_cluster.is_on_loopback():
        environment |= loopback_environment()
    if not use_gpu:
        environment |= {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    return environment


def _fit(trainer: TorchTrainer) -> Result:
    """Run a trainer in a thread, where Ray Train does not handle SIGINT, so Ctrl-C raises KeyboardInterrupt here."""
    found: Future[Result] = Future()

    def fit() -> None:
        try:
            found.set_result(trainer.fit())
        except BaseException as error:
            found.set_exception(error)

    threading.Thread(target=fit, name="cxml-ray-train", daemon=True).start()
    return found.result()


def _absolute(url: str) -> str:
    path = storage.local_path(url)
    return url if path is None else str(path.absolute())


def _own_words(error: TrainingFailedError, num_workers: int) -> BaseException:
    """The error that cxml raised in a worker, or a `WorkerError` that names the failed worker and the reason."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    for failure in failures.values():
        own = ray_cluster.own_error(failure)
        if own is not failure:
            return own
    if not failures:
        return WorkerError(f"Ray Train stopped the job: {error}")
    rank, failure = min(failures.items())
    return WorkerError(f"Process {rank} of {num_workers} failed. {failure}")
