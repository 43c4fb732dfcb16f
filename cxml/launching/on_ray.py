"""Jobs on the workers of Ray Train, which places them on the cluster and starts them again when one is lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar, cast

# Ray Train reads it when it is imported.
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")

import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.exceptions import TrainingFailedError

from cxml import ray_cluster, storage
from cxml.config import Config
from cxml.errors import WorkerError
from cxml.parallel import group_patience

_T = TypeVar("_T")

# Workers decide for themselves, as those of other launchers do, and look where this process looks for modules.
_PASSED_ON = ("DS_ACCELERATOR", "OMP_NUM_THREADS", "PYTHONPATH", "CXML_CACHE", "CXML_CACHE_GIB")


def run_on_ray(work: Callable[..., _T], arguments: tuple[object, ...], num_workers: int, *, config: Config) -> _T:
    """Run `work(*arguments)` in the workers of a Ray Train run; its process group exists when `work` begins.

    A job that loses a worker is started again, `launch.max_failures` times, with as many workers as the cluster then
    has room for; training goes on from its newest checkpoint.

    Args:
        work: a function of an installed module.
        arguments: picklable values.
        num_workers: processes wanted.
        config: the run; its `launch` section says what a worker reserves and how many may be missing.

    Returns:
        What rank 0 returned.

    Raises:
        WorkerError: the job failed more often than is allowed; carries the last failure.
    """
    launch = config.launch
    fewest = min(launch.min_workers or num_workers, num_workers)
    has_accelerator = torch.accelerator.is_available()
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    with ray_cluster.joined_cluster(logs=True):
        trainer = TorchTrainer(
            lambda: work(*arguments),
            scaling_config=ScalingConfig(
                num_workers=(fewest, num_workers) if fewest < num_workers else num_workers,
                use_gpu=has_accelerator,
                resources_per_worker={"CPU": launch.cpus_per_worker, **({"GPU": 1} if has_accelerator else {})},
            ),
            torch_config=TorchConfig(
                backend=None if has_accelerator else "gloo",
                timeout_s=int(group_patience(config.train.hang_minutes).total_seconds()),
            ),
            run_config=RunConfig(
                name=f"cxml-{work.__name__}",
                storage_path=_absolute(storage.join(config.output, "ray")),
                failure_config=FailureConfig(max_failures=launch.max_failures),
                worker_runtime_env={"env_vars": environment},
            ),
        )
        try:
            return cast(_T, trainer.fit().return_value)
        except TrainingFailedError as error:
            raise _own_words(error, num_workers) from None


def _absolute(url: str) -> str:
    path = storage.local_path(url)
    return url if path is None else str(path.absolute())


def _own_words(error: TrainingFailedError, num_workers: int) -> BaseException:
    """The error that cxml raised in a worker, or a `WorkerError` that tells which worker failed of what."""
    failures: dict[int, BaseException] = getattr(error, "worker_failures", {})
    for failure in failures.values():
        own = ray_cluster.own_error(failure)
        if own is not failure:
            return own
    if not failures:
        return WorkerError(f"Ray Train gave up: {error}")
    rank, failure = min(failures.items())
    return WorkerError(f"Process {rank} of {num_workers} failed. {failure}")
