"""Optimisation: parameter groups, the learning rate schedule, and row-sparse AdamW.

Input: a model; the rows of a sharded level, and the candidates that texts are scored on.

1. `parameter_groups` divides the weights into encoder and classifiers, with and without weight decay.
2. In each step, `Schedule` sets the learning rates and beta1 of the three-phase one-cycle.
3. `RowKernels` (`cpu_kernels`, `torch_kernels`, `triton_kernels`) compute the loss of candidates and the gradients of
   the features, and update the rows.

Output: the learning rates of a step, and updated rows.
"""

from cxml.optim.candidates import WORD_BITS, AllRows, LeafRows, Shortlists
from cxml.optim.cpu_kernels import CpuAllRowsKernels, CpuShortlistKernels, wanted_leaves
from cxml.optim.kernels import RowKernels, ShortlistKernels
from cxml.optim.row_adamw import RowSchedule, RowState, update_rows
from cxml.optim.row_kernels import best_int8_rows
from cxml.optim.row_tensors import RowTensors, as_array, as_tensor, current_weights, pending_decay, update_run
from cxml.optim.schedule import Cycle, Schedule, one_cycle, parameter_groups
from cxml.optim.torch_kernels import TorchAllRowsKernels, TorchShortlistKernels, best_per_text

__all__ = [
    "WORD_BITS",
    "AllRows",
    "CpuAllRowsKernels",
    "CpuShortlistKernels",
    "Cycle",
    "LeafRows",
    "RowKernels",
    "RowSchedule",
    "RowState",
    "RowTensors",
    "Schedule",
    "ShortlistKernels",
    "Shortlists",
    "TorchAllRowsKernels",
    "TorchShortlistKernels",
    "as_array",
    "as_tensor",
    "best_int8_rows",
    "best_per_text",
    "current_weights",
    "one_cycle",
    "parameter_groups",
    "pending_decay",
    "update_rows",
    "update_run",
    "wanted_leaves",
]
