"""Processes and devices: who computes what, and where it lies.

workers start -> process_group (ranks, backend, device) -> engine (DeepSpeed around the model);
plan says before any of it how many bytes and steps it will be
"""

from cxml.parallel.device_rows_head import TritonRowsHead
from cxml.parallel.engine import Engine, build_engine, gathered_state_dict, require_engine
from cxml.parallel.exchange import Exchange
from cxml.parallel.full_rows_head import FullRowsHead
from cxml.parallel.label_rows import rows_head
from cxml.parallel.plan import Plan, make_plan
from cxml.parallel.process_group import (
    Ranks,
    begin_group,
    distributed,
    group_patience,
    local_world_size,
    loopback_environment,
    ranks_per_machine,
    set_patience,
)
from cxml.parallel.row_layout import RowLayout, leaf_offsets_of
from cxml.parallel.rows_head import RowsHead, WantedRows
from cxml.parallel.workers import run_workers

__all__ = [
    "Engine",
    "Exchange",
    "FullRowsHead",
    "Plan",
    "Ranks",
    "RowLayout",
    "RowsHead",
    "TritonRowsHead",
    "WantedRows",
    "begin_group",
    "build_engine",
    "distributed",
    "gathered_state_dict",
    "group_patience",
    "leaf_offsets_of",
    "local_world_size",
    "loopback_environment",
    "make_plan",
    "ranks_per_machine",
    "require_engine",
    "rows_head",
    "run_workers",
    "set_patience",
]
