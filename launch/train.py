#!/usr/bin/env python
"""One process of a training, for launchers that start all processes: deepspeed, torchrun, mpirun, srun.

    deepspeed launch/train.py --config icd10cm
    deepspeed --hostfile launch/hostfile launch/train.py --config ...
    torchrun --nproc-per-node 8 launch/train.py --config ...
    mpirun -x MASTER_ADDR -x MASTER_PORT -np 16 python launch/train.py --config ...

Takes the same options as `python -m cxml.train` and does the same. The launcher sets the number of processes. Rank 0
prepares the data and builds the tree, unless they exist already, while the others wait. See docs/operations.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys

from cxml.cli import exit_with_message, parse_command
from cxml.commands.train import TrainCommand, run_command
from cxml.config import Config
from cxml.console import set_up_logging
from cxml.errors import CxmlError
from cxml.launching import LaunchedJobs, complete_rank_environment


def main() -> int:
    """Lead or follow; the exit code of `python -m cxml.train`, the same in every process."""
    try:
        complete_rank_environment()
        command = parse_command(TrainCommand, "launch/train.py", without_local_rank(sys.argv[1:]))
        command = dataclasses.replace(command, settings=with_launched_workers(command.settings))
    except CxmlError as error:
        return exit_with_message(error)
    is_leader = os.environ["RANK"] == "0"
    if command.print_config or command.dry_run:
        return run_command(command) if is_leader else 0
    set_up_logging(is_main=is_leader)
    jobs = LaunchedJobs(command.settings)
    if not jobs.is_leader:
        try:
            return jobs.run_as_worker()
        except CxmlError as error:
            return exit_with_message(error)
    exit_code = 1
    try:
        exit_code = run_command(command, jobs.run_job)
    finally:
        jobs.release_workers(exit_code)
    return exit_code


def without_local_rank(arguments: list[str]) -> list[str]:
    """The command line without the option that the deepspeed launcher adds; its environment says the same."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--local_rank")
    return parser.parse_known_args(arguments)[1]


def with_launched_workers(config: Config) -> Config:
    """The config with as many processes as the launcher started."""
    train = dataclasses.replace(config.train, num_workers=int(os.environ["WORLD_SIZE"]))
    return dataclasses.replace(config, train=train)


if __name__ == "__main__":
    sys.exit(main())
