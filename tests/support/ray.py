"""Temporary Ray clusters: one at a time on this machine, for any number of test processes, and always shut down."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
from filelock import FileLock

_ENDING_SECONDS = 120


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Wait until no other test runs Ray. On few cores, two clusters that start together time out."""
    with FileLock(Path(tempfile.gettempdir()) / "cxml-tests-ray.lock"):
        yield


@contextlib.contextmanager
def own_ray(num_cpus: int = 2, object_store_memory: int = 200 << 20, num_gpus: int = 0) -> Iterator[str]:
    """Start a Ray cluster in this process that claims to have `num_gpus` GPUs. Yields its address."""
    import ray

    with one_at_a_time():
        ray.init(
            address="local", num_cpus=num_cpus, num_gpus=num_gpus, object_store_memory=object_store_memory,
            include_dashboard=False, log_to_driver=False, logging_level="ERROR",
            runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
        )  # fmt: skip
        try:
            yield ray.get_runtime_context().gcs_address
        finally:
            processes = list(_rays_processes())
            ray.shutdown()
            _, alive = psutil.wait_procs(processes, timeout=_ENDING_SECONDS)
        assert not alive, "Ray left processes running"


def _rays_processes() -> Iterator[psutil.Process]:
    """Ray's processes below this one. Those of multiprocessing may stay."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            words = " ".join(process.cmdline())
            if "ray" in words and "multiprocessing" not in words:  # Ray's packages are on our processes' path
                yield process
