"""Optimisation: which parameters learn how fast, and how that changes over a run.

model -> parameter groups (encoder / classifiers, with and without decay) -> AdamW; each step the Schedule sets
the learning rates and beta1 of the three-phase one-cycle
"""

from cxml.optim.groups import parameter_groups
from cxml.optim.row_adamw import RowSchedule, RowState, settled_weights, update_rows
from cxml.optim.row_kernels import best_int8_rows, best_rows, train_groups
from cxml.optim.row_tensors import RowTensors, pending_decay, update_run
from cxml.optim.schedule import Cycle, Schedule, one_cycle

__all__ = [
    "Cycle",
    "RowSchedule",
    "RowState",
    "RowTensors",
    "Schedule",
    "best_int8_rows",
    "best_rows",
    "one_cycle",
    "parameter_groups",
    "pending_decay",
    "settled_weights",
    "train_groups",
    "update_rows",
    "update_run",
]
