"""Set the rank variables of torchrun for processes of other launchers."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from cxml.errors import LaunchError

_NAMES = {
    # torchrun and deepspeed    Open MPI                     Slurm
    "RANK": ("OMPI_COMM_WORLD_RANK", "SLURM_PROCID"),
    "WORLD_SIZE": ("OMPI_COMM_WORLD_SIZE", "SLURM_NTASKS"),
    "LOCAL_RANK": ("OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID"),
    "LOCAL_WORLD_SIZE": ("LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_NTASKS_PER_NODE"),
}


def complete_rank_environment(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE from the variables of Open MPI, Slurm or deepspeed.

    Raises:
        LaunchError: none of these launchers started the process, or the address of rank 0 is unknown.
    """
    for name, others in _NAMES.items():
        found = next((environment[other] for other in others if other in environment), None)
        if name not in environment and found is not None:
            environment[name] = found
    missing = [name for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK") if name not in environment]
    if missing:
        raise LaunchError(
            f"No launcher started this process: {', '.join(missing)} not set. Use deepspeed, torchrun, mpirun or srun "
            "(docs/operations.md), or python -m cxml.train, which needs none."
        )
    if environment["WORLD_SIZE"] == "1":
        environment.setdefault("MASTER_ADDR", "127.0.0.1")
    unknown = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in environment]
    if unknown:
        raise LaunchError(
            f"The address of rank 0 is unknown: set {' and '.join(unknown)} to its host and a free port, for every "
            "process alike."
        )
