"""The sections `checkpoint`, `launch` and `log`: how a run is kept, started and followed; they change no result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cxml.config.fields import require, require_at_least


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Checkpoints of a training under way: where, how often, and which ones stay."""

    url: str = ""
    """Folder or URL of the checkpoints, of this run alone; empty: `checkpoints` inside the run's output."""
    every_minutes: float = 10.0
    """Minutes between two checkpoints; 0: not by time. With every_steps 0 too, none are made."""
    every_steps: int = 0
    """Optimiser steps between two checkpoints; 0: not by steps."""
    keep_last: int = 2
    """Newest checkpoints that stay."""
    keep_every_steps: int = 0
    """Also keep the first checkpoint of every so many optimiser steps; 0: none."""
    keep_best: int = 0
    """Also keep so many checkpoints that are best by best_metric."""
    best_metric: str = "loss"
    """`loss`, the training loss of all levels (lower is better), or a metric of the labels that train.evaluate_every
    reports, such as P@1 (higher is better): then a checkpoint follows every evaluation. Which weights become the model
    is for train.keep to say; the checkpoint of its best epoch stays in any case."""

    def __post_init__(self) -> None:
        for name in ("every_minutes", "every_steps", "keep_every_steps", "keep_best"):
            require_at_least(f"checkpoint.{name}", getattr(self, name), 0)
        require_at_least("checkpoint.keep_last", self.keep_last, 1)
        require(bool(self.best_metric), "checkpoint.best_metric", self.best_metric, "is empty", "Use loss or P@1.")

    @property
    def is_on(self) -> bool:
        """Whether checkpoints are made at all."""
        return self.every_minutes > 0 or self.every_steps > 0


@dataclass(frozen=True, kw_only=True)
class LaunchConfig:
    """How `python -m cxml.train` starts the processes of training and evaluation."""

    launcher: Literal["auto", "local", "ray"] = "auto"
    """local: on this machine; ray: on a cluster, by Ray Train; auto: ray within a Ray job and where RAY_ADDRESS names a
    cluster, else local."""
    min_workers: int = 0
    """Ray: how few processes are enough to begin or go on with, where the cluster has no room for train.num_workers; 0:
    all of them are needed."""
    cpus_per_worker: float = 1.0
    """Ray: CPUs that each process reserves, besides its accelerator where there are any."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Ray: what each process computes on; auto: a GPU where a node of the cluster has any, whether or not the one that
    starts the run does. Say gpu for a cluster that adds its GPU nodes on demand."""
    max_failures: int = 3
    """Ray: how often a job that lost a process is started again, going on from its newest checkpoint."""

    def __post_init__(self) -> None:
        require_at_least("launch.min_workers", self.min_workers, 0)
        require_at_least("launch.max_failures", self.max_failures, 0)
        require(
            self.cpus_per_worker > 0, "launch.cpus_per_worker", self.cpus_per_worker, "is not positive", "Set it to 1."
        )


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """What a run tells while it works. `metrics.jsonl` in the output is always written."""

    every_seconds: float = 10.0
    """Seconds between progress lines where the output is not a terminal."""
    every_steps: int = 10
    """Optimiser steps between records in metrics.jsonl."""
    tensorboard: bool = False
    """Also write TensorBoard event files to `tensorboard` in the output (needs the extra `tensorboard`)."""
    mlflow: bool = False
    """Also log to MLflow: settings, records, evaluations, where the model lies (needs the extra `mlflow`).
    MLFLOW_TRACKING_URI and MLFLOW_EXPERIMENT_NAME say where."""
    wandb: bool = False
    """Also log to Weights & Biases, the same (needs the extra `wandb`). WANDB_MODE, WANDB_PROJECT and WANDB_ENTITY say
    where."""

    def __post_init__(self) -> None:
        require_at_least("log.every_seconds", self.every_seconds, 0)
        require_at_least("log.every_steps", self.every_steps, 1)
