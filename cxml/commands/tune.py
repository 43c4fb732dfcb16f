"""Hyperparameter search: many short trainings, with early stopping of poor ones.

python -m cxml.tune --config configs/wordnet.yaml --space configs/spaces/rates.yaml --trials 20
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from cxml import extras
from cxml.cli import Settings, run_with_config


@dataclass(frozen=True, kw_only=True)
class TuneCommand:
    """Search for better values of config fields with Ray Tune.

    A share of the train texts is held out. Each trial is a run of the config with values drawn from the search space
    (with the config's seed). It trains on the other texts and is evaluated on the held-out texts after each epoch; the
    test split is never used. Poor trials are stopped early (successive halving, ASHA). To resume an interrupted search,
    run the same command again. The best config is written to `tune/best.yaml` in the output.
    """

    settings: Settings
    space: str = "spaces/rates"
    """YAML file, or one of cxml's own spaces. Each line has a field of the config, such as optim.encoder_lr, and its
    distribution: {choice: [1, 2]}, {uniform: [0, 1]}, {loguniform: [1.0e-5, 1.0e-3]} or {integers: [1, 8]} (both ends
    included)."""
    trials: int = 16
    """Number of trials."""
    metric: str = "P@5"
    """Label metric to maximise."""
    held_out: float = 0.1
    """Share of the train texts that is held out for the evaluation, above 0 and below 1."""
    cpus_per_trial: int = 0
    """Number of CPUs of each trial, which determines how many trials run at once; 0: all CPUs of the cluster, one trial
    at a time."""
    gpus_per_trial: int = 0
    """Number of GPUs of each trial."""
    reduction: int = 3
    """With the value r, one in r trials continues after 1, r, r^2, ... epochs."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code: 0, or 2 after an error of cxml."""
    return run_with_config(TuneCommand, _tune, "python -m cxml.tune", arguments)


def _tune(command: TuneCommand) -> None:
    extras.require("cxml.tune", "the search", "ray", "pandas", "deepspeed")
    from cxml.tuning import search  # noqa: PLC0415  the heavy libraries

    search(
        command.settings, command.space,
        trials=command.trials, metric=command.metric, held_out=command.held_out, cpus=command.cpus_per_trial,
        gpus=command.gpus_per_trial, reduction=command.reduction,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
