"""Row-sparse AdamW: rows that a step does not touch cost nothing, with the same result as a dense schedule.

The dense schedule: at step t every row decays, `w *= 1 - lr_t * decay`. A touched row then gets an AdamW update as a
separate parameter: its moments advance only when it is touched, and bias correction counts its own updates. (Loshchilov
and Hutter 2019 for the update; lazy moments as in TensorFlow's LazyAdam.)

The lazy implementation: a row stores the step of its last write. The decay since then is one factor, from the
cumulative sum of log(1 - lr_t * decay), applied at the next read or write. Biases do not decay.

A row of D weights takes 4 D bytes (2 D in bf16, 4 D with Kahan compensation, D + 4 in fp8) and 12 bytes for its bias
and counters. `adamw` adds 8 D bytes of fp32 moments, or 4 D + 4 with one second moment per row, and 8 for the bias.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from cxml.optim.row_kernels import Hyperparameters, update_distinct_rows
from cxml.optim.row_values import RowArrays

_DTYPES = {"fp32": np.float32, "bf16": np.uint16, "bf16-kahan": np.uint16, "fp8": np.uint8}


@dataclass(kw_only=True)
class RowState:
    """Weights and optimiser state of R rows of D weights, as numpy arrays that share memory with torch's.

    Attributes:
        weight: float32 [R, D], uint16 [R, D] holding bfloat16, or uint8 [R, D] holding e4m3.
        bias: float32 [R].
        moment: float32 [R, D]; [R, 0] for SGD.
        second: float32 [R, D], or [R, 1] for one second moment per row; [R, 0] for SGD.
        bias_moments: float32 [R, 2].
        last_step: int32 [R]: decay is applied up to and with this step.
        updates: int32 [R]: number of updates of the row.
        compensation: uint16 [R, D], Kahan compensation as bfloat16; uint8 [R, 0] for none.
        scale: float32 [R], factor of a row's e4m3; [0] for other formats. See `row_formats`.
    """

    weight: np.ndarray
    bias: np.ndarray
    moment: np.ndarray
    second: np.ndarray
    bias_moments: np.ndarray
    last_step: np.ndarray
    updates: np.ndarray
    compensation: np.ndarray
    scale: np.ndarray

    @classmethod
    def zeros(
        cls, num_rows: int, width: int, *, optimizer: str, weights: str, second_moment: str, trains: bool = True
    ) -> RowState:
        """Initial state with zero weights and biases, before the first update.

        Args:
            num_rows: R.
            width: D.
            optimizer: `adamw` or `sgd`.
            weights: `fp32`, `bf16` or `fp8` (stochastic rounding), or `bf16-kahan` (rounded to nearest, compensated).
            second_moment: `full` or `row`.
            trains: whether to allocate moments.
        """
        is_kept = trains and weights == "bf16-kahan"
        has_moments = trains and optimizer == "adamw"
        second_width = {"full": width, "row": 1}[second_moment] if has_moments else 0
        return cls(
            weight=np.zeros((num_rows, width), _DTYPES[weights]),
            bias=np.zeros(num_rows, np.float32),
            moment=np.zeros((num_rows, width if has_moments else 0), np.float32),
            second=np.zeros((num_rows, second_width), np.float32),
            bias_moments=np.zeros((num_rows if has_moments else 0, 2), np.float32),
            last_step=np.zeros(num_rows, np.int32),
            updates=np.zeros(num_rows, np.int32),
            compensation=np.zeros(*(((num_rows, width), np.uint16) if is_kept else ((num_rows, 0), np.uint8))),
            scale=np.ones(num_rows if weights == "fp8" else 0, np.float32),
        )

    @classmethod
    def bytes_by_state(cls, width: int, *, optimizer: str, weights: str, second_moment: str) -> dict[str, int]:
        """Bytes per row in training by array, without unused arrays."""
        row = cls.zeros(1, width, optimizer=optimizer, weights=weights, second_moment=second_moment)
        return {name: array.nbytes for name, array in vars(row).items() if array.nbytes}

    @classmethod
    def bytes_per_row(cls, width: int, *, optimizer: str, weights: str, second_moment: str) -> int:
        """Total bytes per row in training."""
        return sum(
            cls.bytes_by_state(width, optimizer=optimizer, weights=weights, second_moment=second_moment).values()
        )

    @property
    def num_bytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in vars(self).values())


@dataclass
class RowSchedule:
    """Step, learning rate and cumulative decay of the rows: the inputs of their updates besides gradients.

    Attributes:
        decay: decoupled weight decay.
        beta2: AdamW's beta2.
        epsilon: AdamW's epsilon.
        clip_row_norm: largest norm of one row's gradient; 0 is no limit.
        step: the current step, from 1.
        lr: its learning rate.
        beta1: its beta1.
        log_decay: float64 [more than step], running sum of log(1 - lr * decay) up to each step; entry 0 is 0. It
            is on the device of the rows, because only the device may know that a step is skipped.
    """

    decay: float
    beta2: float
    epsilon: float
    clip_row_norm: float = 0.0
    step: int = 0
    lr: float = 0.0
    beta1: float = 0.0
    log_decay: Tensor = field(default_factory=lambda: torch.zeros(1024, dtype=torch.float64))

    @property
    def scoring_step(self) -> int:
        """The step up to which decay is applied for scoring; that of the current step comes with its update."""
        return max(self.step - 1, 0)

    def begin_step(self, lr: float, beta1: float) -> None:
        """Enter the next step."""
        self.step += 1
        self.lr, self.beta1 = lr, beta1
        if self.step >= len(self.log_decay):
            self.log_decay = torch.cat([self.log_decay, torch.zeros_like(self.log_decay)])
        before, own = self.log_decay[self.step - 1], self.log_decay[self.step]
        torch.add(before, math.log1p(-lr * self.decay), out=own)

    def end_step(self, is_finite: Tensor) -> None:
        """Undo the step's decay if bool [] `is_finite` is False."""
        own = self.log_decay[self.step]
        torch.where(is_finite, own, self.log_decay[self.step - 1], out=own)

    @property
    def hyperparameters(self) -> Hyperparameters:
        """Those of the step under way, of one type whatever a config says, so that kernels are compiled once."""
        return Hyperparameters(
            lr=float(self.lr), beta1=float(self.beta1), beta2=float(self.beta2), epsilon=float(self.epsilon),
            clip_row_norm=float(self.clip_row_norm), step=self.step,
        )  # fmt: skip


def update_rows(
    state: RowState,
    schedule: RowSchedule,
    *,
    rows: np.ndarray,
    gradients: np.ndarray,
    bias_gradients: np.ndarray,
    row_ids: np.ndarray,
) -> None:
    """Update distinct rows.

    Args:
        state: changed in place.
        schedule: the step under way.
        rows: int64 [n], distinct.
        gradients: float32 [n, D].
        bias_gradients: float32 [n].
        row_ids: int64 [n], ids of the rows independent of their rank (label positions).
    """
    update_distinct_rows(
        rows, gradients.copy(), bias_gradients, row_ids, schedule.hyperparameters, schedule.log_decay.numpy(),
        RowArrays(**vars(state)),
    )  # fmt: skip
