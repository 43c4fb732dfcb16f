"""Jobs in the processes of an external launcher: deepspeed, torchrun, mpirun, srun.

Rank 0 is the leader. It runs the stages alone and calls the other ranks for each job. The calls use torch's key-value
store, so ranks can wait for hours during data preparation without an open collective. Each job has its own process
group.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from cxml.accelerators import device_of
from cxml.config import Config, plain_values, with_values
from cxml.operating_system import STOP_SIGNALS
from cxml.parallel import begin_group
from cxml.training import TimeLimit, complete_evidence, decide_run, evaluate_run, measure_speed, selection_run, train

_JOBS: dict[str, Callable[..., Any]] = {
    job.__name__: job for job in (measure_speed, train, complete_evidence, decide_run, evaluate_run)
}
_PLANNED = ("train.budget", "train.steps")  # by an option of the command and its plan; never in Config.auto
_TIME_LIMIT = "time_limit"
_NO_TIMEOUT = timedelta(days=365)
_JOIN_TIMEOUT = timedelta(minutes=1)
_RELEASE_TIMEOUT = timedelta(seconds=10)  # less than the 30 s after which torchrun and Slurm kill a stopped process


class LaunchedJobs:
    """The processes of one launch, seen from one of them."""

    def __init__(self, config: Config) -> None:
        """Connect to the other ranks at MASTER_ADDR:MASTER_PORT.

        Args:
            config: the run's config; every rank reads it from the same command line.
        """
        self._config = config
        self._store, self._rank, self._world_size = next(rendezvous("env://", timeout=_JOIN_TIMEOUT))
        self._store.set_timeout(_NO_TIMEOUT)
        self._calls = 0

    @property
    def is_leader(self) -> bool:
        """Whether this process runs the stages, while the others wait for its calls."""
        return self._rank == 0

    def run_job(self, work: Callable[..., Any], arguments: tuple[Any, ...], num_workers: int) -> Any:  # noqa: ANN401
        """`RunJob` of the leader.

        All ranks have the user's values of the config, which is the first argument, or the config of its run that
        selects the epoch (`selection_run`). The chosen values and the other arguments are sent as JSON.
        """
        assert num_workers == self._world_size, "launch/train.py sets train.num_workers"
        config, *others = arguments
        chosen = plain_values(config, (*self._config.auto, *_PLANNED))
        selects = config.output != self._config.output
        self._call({"job": work.__name__, "chosen": chosen, "selects": selects, "arguments": others})
        return self._join(work, arguments)

    def run_as_worker(self) -> int:
        """Take part in the leader's jobs until it releases all ranks. Returns the leader's exit code.

        Ctrl-C on a terminal and a scheduler's SIGUSR1 also reach the leader, which handles them. During a training,
        this process takes part in stopping.
        """
        for number in set(STOP_SIGNALS) - {signal.SIGTERM}:
            signal.signal(number, lambda *_: None)
        while True:
            call = json.loads(self._store.get(f"call/{self._calls}"), object_hook=_restored)
            self._calls += 1
            if "exit" in call:
                self._store.set(f"gone/{self._rank}", "")
                return call["exit"]
            config = with_values(self._config, call["chosen"])
            config = selection_run(config) if call["selects"] else config
            self._join(_JOBS[call["job"]], (config, *call["arguments"]))

    def release_workers(self, exit_code: int) -> None:
        """Send the leader's last call, and return when all ranks received it, so that the store can close."""
        self._call({"exit": exit_code})
        with contextlib.suppress(dist.DistStoreError):  # a dead rank does not respond
            self._store.wait([f"gone/{rank}" for rank in range(1, self._world_size)], _RELEASE_TIMEOUT)

    def _call(self, call: dict[str, Any]) -> None:
        self._store.set(f"call/{self._calls}", json.dumps(call, default=_plain))
        self._calls += 1

    def _join(self, work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:  # noqa: ANN401
        with self._group():
            return work(*arguments)

    @contextlib.contextmanager
    def _group(self) -> Iterator[None]:
        keys = PrefixStore(f"job/{self._calls}", self._store)
        device = device_of(int(os.environ["LOCAL_RANK"]))
        begin_group(device, self._config.train.hang_minutes, store=keys, rank=self._rank, world_size=self._world_size)
        try:
            yield
        finally:
            dist.destroy_process_group()


def _plain(argument: object) -> dict[str, Any]:
    """The JSON form of an argument that has none."""
    assert isinstance(argument, TimeLimit), argument
    return {_TIME_LIMIT: dataclasses.asdict(argument)}


def _restored(values: dict[str, Any]) -> object:
    """The argument that `_plain` has converted; other objects unchanged."""
    return TimeLimit(**values[_TIME_LIMIT]) if values.keys() == {_TIME_LIMIT} else values
