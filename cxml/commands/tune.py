"""Search a config's fields for better values: many short trainings, the poor ones ended early.

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
    """Search a config's fields for better values with Ray Tune.

    A share of the train texts is held out, and every trial is a run of the config with values drawn from the space (by
    the config's seed), on the rest, evaluated after each epoch on what was held out: the test split is never looked at.
    Trials that fall behind are ended (successive halving, ASHA). A stopped search goes on where it was, trials and all,
    by the same command. The best config is written to `tune/best.yaml` in the output.
    """

    settings: Settings
    space: str = "spaces/rates"
    """YAML file, or one of cxml's own: each line a field of the config, such as optim.encoder_lr, and what to draw it
    from: {choice: [1, 2]}, {uniform: [0, 1]}, {loguniform: [1.0e-5, 1.0e-3]} or {integers: [1, 8]}, both ends
    included."""
    trials: int = 16
    """Values to try."""
    metric: str = "P@5"
    """The labels' metric to make as high as possible."""
    held_out: float = 0.1
    """Share of the train texts to evaluate on, above 0 and below 1."""
    cpus_per_trial: int = 0
    """CPUs of each trial, which decide how many run at once; 0: all of the cluster, one trial after the other."""
    gpus_per_trial: int = 0
    """GPUs of each trial."""
    reduction: int = 3
    """After 1, 3, 9, ... epochs (its powers) only the best of so many trials goes on."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0, or 2 if something was refused or failed in a way that cxml names."""
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
