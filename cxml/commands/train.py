"""Train a CascadeXML model: one command from raw text to metrics.

python -m cxml.train --config configs/quickstart.yaml
python -m cxml.train --config configs/quickstart.yaml --train.epochs 2 --force train
python -m cxml.train --config configs/quickstart.yaml --budget 30m
python -m cxml.train --config configs/quickstart.yaml --dry-run
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cxml import extras
from cxml.cli import Settings, exit_with_message, handle_broken_pipe, parse_command
from cxml.config import Config, config_to_dict
from cxml.config_files import dump_config
from cxml.console import set_up_logging
from cxml.errors import CxmlError, LaunchError
from cxml.stopping import stopping_on_signals

if TYPE_CHECKING:
    from cxml.launching import RunJob

_AFTER_A_SIGNAL = "Run the same command again to resume."
_LAUNCHERS = (("WORLD_SIZE", "RANK"), ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"))
"""What torchrun and deepspeed, and Open MPI, set in the processes that they start."""


@dataclass(frozen=True, kw_only=True)
class TrainCommand:
    """Train a CascadeXML model: one command from raw text to metrics.

    Runs the stages prepare, tree, train, evidence (if the run uses it), baseline (if evaluate.baseline is set) and
    evaluate. Finished stages are reused.
    """

    settings: Settings
    force: tuple[Literal["prepare", "tree", "train", "evidence", "baseline", "evaluate"], ...] = ()
    """Stages to repeat, together with all stages that depend on them. Forcing `train` deletes the run's checkpoints."""
    resume: str = "auto"
    """Checkpoint that training resumes from: `auto` for the newest complete checkpoint of this run, if there is one; or
    the folder or URL of a checkpoint."""
    budget: str = ""
    """Time limit of the whole run, such as 30m; the same as --train.budget."""
    print_config: bool = False
    """Print the resolved config as YAML and stop."""
    dry_run: bool = False
    """Check the config and print the plan (bytes per rank, steps, estimated time) without writing anything."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code.

    It is 0; 2 after an error of cxml; 75 after SIGTERM or SIGUSR1; or 130 after SIGINT. After a signal, the same
    command resumes. A training saves a checkpoint before it stops, except on Ray.
    """
    try:
        command = parse_command(TrainCommand, "python -m cxml.train", arguments)
        _refuse_launcher()
    except (CxmlError, KeyboardInterrupt) as error:
        return exit_with_message(error)
    return handle_broken_pipe(lambda: run_command(command))


def _refuse_launcher() -> None:
    """Raise `LaunchError` if torchrun, deepspeed or mpirun started several processes of this command."""
    count = next((os.environ[size] for size, rank in _LAUNCHERS if {size, rank} <= os.environ.keys()), "1")
    if count != "1":
        raise LaunchError(
            f"A launcher started {count} processes of this command, which starts its own (train.num_workers). Use "
            "launch/train.py with the launcher, or this command without one (docs/operations.md)."
        )


def run_command(command: TrainCommand, run_job: RunJob | None = None) -> int:
    """Run a parsed command. Returns the exit code of `main`.

    Args:
        command: options and config.
        run_job: starts the processes; None chooses it by the config.
    """
    began = time.monotonic()
    try:
        config = _config_of(command)
        if command.print_config:
            print(dump_config(config_to_dict(config)), end="")
            return 0
        with stopping_on_signals():
            set_up_logging(is_main=True)
            with extras.named():
                _act(command, config, run_job, began)
    except (CxmlError, KeyboardInterrupt) as error:
        return exit_with_message(error, _AFTER_A_SIGNAL)
    return 0


def _config_of(command: TrainCommand) -> Config:
    if not command.budget:
        return command.settings
    train = dataclasses.replace(command.settings.train, budget=command.budget)
    return dataclasses.replace(command.settings, train=train)


def _act(command: TrainCommand, config: Config, run_job: RunJob | None, began: float) -> None:
    # Heavy libraries are imported after the command line was validated.
    if command.dry_run:
        from cxml.pipeline.dry_run import dry_run  # noqa: PLC0415

        dry_run(config)
    else:
        from cxml.launching import run_job_for  # noqa: PLC0415
        from cxml.pipeline import run  # noqa: PLC0415

        run(config, force=command.force, resume=command.resume, run_job=run_job or run_job_for(config), began=began)


if __name__ == "__main__":
    sys.exit(main())
