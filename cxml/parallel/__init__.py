"""Processes and devices: distribution of computation and memory.

Input: the function of a job, and the settings of its processes.

1. `run_workers` or a launcher starts the processes, and `process_group` joins them: ranks, backend, device.
2. `engine` holds the encoder and small cluster levels: plain PyTorch or DeepSpeed.
3. `sharded_level` holds the rows of the labels and of large cluster levels, sharded over the ranks by `row_layout`.
   `routing` sends texts to the owners of the rows and returns the results.

Output: the function's result on rank 0.

`memory_plan` computes memory and steps in advance, `step_costs` traffic and kernel launches.
"""

from cxml.parallel.engine import Engine, build_engine, gathered_state_dict, require_engine, take_step
from cxml.parallel.exchange import Exchange, require_even_groups
from cxml.parallel.levels import kernels_for, make_level, sharded_clusters, sharded_levels
from cxml.parallel.memory_plan import Plan, make_plan
from cxml.parallel.process_group import (
    Ranks,
    begin_group,
    collective_timeout,
    distributed,
    local_world_size,
    loopback_environment,
    ranks_per_machine,
    set_collective_timeout,
    value_of_first,
)
from cxml.parallel.row_layout import RowLayout, leaf_offsets_of
from cxml.parallel.sharded_level import ShardedLevel
from cxml.parallel.step_check import StepCheck
from cxml.parallel.step_costs import LevelKind, LevelTraffic, launches_of_step
from cxml.parallel.workers import run_here, run_workers

__all__ = [
    "Engine",
    "Exchange",
    "LevelKind",
    "LevelTraffic",
    "Plan",
    "Ranks",
    "RowLayout",
    "ShardedLevel",
    "StepCheck",
    "begin_group",
    "build_engine",
    "collective_timeout",
    "distributed",
    "gathered_state_dict",
    "kernels_for",
    "launches_of_step",
    "leaf_offsets_of",
    "local_world_size",
    "loopback_environment",
    "make_level",
    "make_plan",
    "ranks_per_machine",
    "require_engine",
    "require_even_groups",
    "run_here",
    "run_workers",
    "set_collective_timeout",
    "sharded_clusters",
    "sharded_levels",
    "take_step",
    "value_of_first",
]
