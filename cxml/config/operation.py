"""The sections `checkpoint`, `launch` and `log`: how a run is kept, started and followed; they change no result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cxml.config.fields import require, require_at_least


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Checkpoints of a running training: location, frequency and retention."""

    url: str = ""
    """Folder or URL of the checkpoints, for this run alone; empty: `checkpoints` in the run's output."""
    every_minutes: float = 10.0
    """Minutes between two checkpoints; 0: not by time. If every_steps is 0 too, no checkpoint is saved."""
    every_steps: int = 0
    """Optimiser steps between two checkpoints; 0: not by steps."""
    keep_last: int = 2
    """Number of newest checkpoints to retain."""
    keep_every_steps: int = 0
    """Also retain the first checkpoint of each period of this many optimiser steps; 0: none."""
    keep_best: int = 0
    """Also retain this many checkpoints that are best by best_metric."""
    best_metric: str = "loss"
    """`loss`, the training loss of all levels (lower is better), or a label metric of the evaluations during training,
    such as P@1 (higher is better), at any k. With a label metric, a checkpoint follows every evaluation. This field
    only affects retention; train.keep selects the weights of the model, and the checkpoint of its best epoch is always
    retained."""

    def __post_init__(self) -> None:
        for name in ("every_minutes", "every_steps", "keep_every_steps", "keep_best"):
            require_at_least(f"checkpoint.{name}", getattr(self, name), 0)
        require_at_least("checkpoint.keep_last", self.keep_last, 1)
        require(bool(self.best_metric), "checkpoint.best_metric", self.best_metric, "is empty", "Use loss or P@1.")

    @property
    def is_on(self) -> bool:
        """Whether checkpoints are saved."""
        return self.every_minutes > 0 or self.every_steps > 0


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """Start of the training and evaluation processes by `python -m cxml.train`."""

    launcher: Literal["auto", "local", "ray"] = "auto"
    """`local`: on this machine. `ray`: on a cluster, through Ray Train. `auto`: `ray` within a Ray job or if
    RAY_ADDRESS is set, else `local`."""
    min_workers: int = 0
    """Ray: minimum number of processes to start or resume with if the cluster has no room for train.num_workers; 0: all
    are required."""
    cpus_per_worker: float = 1.0
    """Ray: number of CPUs that each process reserves, in addition to an accelerator if there is one."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Ray: device of each process. `auto`: a GPU if any node of the cluster has one, even if the node that starts the
    run has none. Set `gpu` for a cluster that adds its GPU nodes on demand."""
    max_failures: int = 3
    """Ray: how many times a job that lost a process restarts from its newest checkpoint."""

    def __post_init__(self) -> None:
        require_at_least("launch.min_workers", self.min_workers, 0)
        require_at_least("launch.max_failures", self.max_failures, 0)
        require(
            self.cpus_per_worker > 0, "launch.cpus_per_worker", self.cpus_per_worker, "is not positive", "Set it to 1."
        )


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """Logs of a run. `metrics.jsonl` in the output is always written."""

    every_seconds: float = 10.0
    """Seconds between progress lines if the output is not a terminal."""
    every_steps: int = 10
    """Optimiser steps between records in metrics.jsonl."""
    tensorboard: bool = False
    """Also write TensorBoard event files to `tensorboard` in the output (requires the extra `tensorboard`)."""
    mlflow: bool = False
    """Also log settings, records, evaluations and the location of the model to MLflow (requires the extra `mlflow`).
    Set MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME."""
    wandb: bool = False
    """Also log to Weights & Biases what `mlflow` logs (requires the extra `wandb`). Set WANDB_MODE, WANDB_PROJECT and
    WANDB_ENTITY."""

    def __post_init__(self) -> None:
        require_at_least("log.every_seconds", self.every_seconds, 0)
        require_at_least("log.every_steps", self.every_steps, 1)
