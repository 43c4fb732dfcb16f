"""The rows and their update in torch, for ranges of rows with gradients on any device.

The results equal those of `row_kernels`, which processes scattered rows on the CPU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cxml.optim.row_adamw import RowSchedule, RowState
from cxml.optim.row_formats import NEAREST_BF16, NEAREST_FP8, to_fp8
from cxml.optim.row_values import RowArrays


@dataclass(kw_only=True)
class RowTensors:
    """The arrays of a `RowState` on the device of the rows.

    uint16 becomes bfloat16; e4m3 stay bits in uint8, as torch has few operations for them.
    """

    weight: Tensor
    bias: Tensor
    moment: Tensor
    second: Tensor
    bias_moments: Tensor
    last_step: Tensor
    updates: Tensor
    compensation: Tensor
    scale: Tensor

    @classmethod
    def zeros(cls, num_rows: int, width: int, device: torch.device, **form: Any) -> RowTensors:  # noqa: ANN401
        """Fresh rows, allocated on `device`; `form` is as of `RowState.zeros`.

        On the CPU, the operating system allocates memory only when it is written to.
        """
        if device.type == "cpu":
            return cls.of(RowState.zeros(num_rows, width, **form), device)
        one = cls.of(RowState.zeros(1, width, **form), device)
        return cls(**{name: tensor.repeat(num_rows, *[1] * (tensor.ndim - 1)) for name, tensor in vars(one).items()})

    @classmethod
    def of(cls, state: RowState, device: torch.device) -> RowTensors:
        """The rows of `state` on `device`; on the CPU they share its memory."""
        return cls(**{name: as_tensor(array).to(device) for name, array in vars(state).items()})

    @property
    def device(self) -> torch.device:
        """The device of the rows."""
        return self.bias.device

    @property
    def num_rows(self) -> int:
        """R."""
        return len(self.bias)

    @property
    def width(self) -> int:
        """D."""
        return self.weight.shape[1]

    @property
    def num_bytes(self) -> int:
        """Bytes of all arrays."""
        return sum(tensor.nbytes for tensor in vars(self).values())

    def move(self, device: torch.device) -> None:
        """Move the rows, one array after the other, so that only one of them is in memory twice."""
        for name in list(vars(self)):
            setattr(self, name, getattr(self, name).to(device))

    def arrays(self) -> RowArrays:
        """The memory of rows on the CPU, for the compiled loops."""
        return RowArrays(**{name: as_array(tensor) for name, tensor in vars(self).items()})

    def floats(self, chosen: slice | Tensor) -> Tensor:
        """Weights of chosen rows, int64 of any shape or a run, as float32 [..., D], without decay that is pending."""
        weight = self.weight[chosen]
        if weight.dtype != torch.uint8:
            return weight.float()
        return weight.view(torch.float8_e4m3fn).float() * self.scale[chosen][..., None]

    def fill(self, chosen: Tensor, values: Tensor) -> None:
        """Write weights, float32 [n, D], of chosen rows, int64 [n], rounded to nearest."""
        if self.weight.dtype == torch.uint8:
            self.weight[chosen], self.scale[chosen] = to_fp8(values.float(), NEAREST_FP8)
        else:
            self.weight[chosen] = values.to(self.weight.dtype)
        if self.compensation.shape[1]:
            self.compensation[chosen] = 0


def as_tensor(array: np.ndarray) -> Tensor:
    """The same memory; uint16 holds the bits of bfloat16."""
    if array.dtype == np.uint16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def as_array(tensor: Tensor) -> np.ndarray:
    """The same host memory; uint16 holds the bits of bfloat16."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()


def update_run(
    rows: RowTensors,
    run: slice,
    schedule: RowSchedule,
    *,
    gradients: Tensor,
    bias_gradients: Tensor,
    row_ids: Tensor,
) -> None:
    """Update a run of n rows.

    Args:
        rows: changed in place.
        run: range of rows.
        schedule: schedule of the current step.
        gradients: float32 [n, D].
        bias_gradients: float32 [n].
        row_ids: int64 [n], see `update_rows`.
    """
    if schedule.clip_row_norm:
        norms = (gradients.square().sum(1) + bias_gradients.square()).sqrt()
        scale = (schedule.clip_row_norm / norms).clamp(max=1)
        gradients, bias_gradients = gradients * scale[:, None], bias_gradients * scale
    decay = pending_decay(rows, run, schedule, schedule.step)
    rows.last_step[run] = schedule.step
    rows.updates[run] += 1
    values = rows.floats(run)
    if rows.compensation.shape[1]:
        values = values + rows.compensation[run].float()
    values = values * decay[:, None]
    if rows.moment.shape[1]:
        change, bias_change = _adamw_change(rows, run, schedule, gradients, bias_gradients)
    else:
        change, bias_change = gradients * schedule.lr, bias_gradients * schedule.lr
    rows.bias[run] -= bias_change
    _store(rows, run, values.sub_(change), schedule.step, row_ids)


def pending_decay(rows: RowTensors, run: slice | Tensor, schedule: RowSchedule, step: int) -> Tensor:
    """The pending decay factor of each chosen row until the end of `step`: float32, shaped as `run`."""
    return (schedule.log_decay[step] - schedule.log_decay[rows.last_step[run].long()]).exp().float()


def current_weights(rows: RowTensors, schedule: RowSchedule, run: slice = slice(None)) -> Tensor:
    """Weights at the end of the current step, with pending decay applied: float32 [n, D]."""
    return rows.floats(run) * pending_decay(rows, run, schedule, schedule.step)[:, None]


def _adamw_change(
    rows: RowTensors, run: slice, schedule: RowSchedule, gradients: Tensor, bias_gradients: Tensor
) -> tuple[Tensor, Tensor]:
    """AdamW's change of the weights [n, D] and the biases [n], to subtract; updates the moments."""
    new1, new2 = 1 - schedule.beta1, 1 - schedule.beta2
    taken = rows.updates[run].double()
    size = (schedule.lr / (1 - schedule.beta1**taken)).float()
    root = (1 - schedule.beta2**taken).rsqrt().float()
    moment = rows.moment[run].lerp_(gradients, new1)
    squares = gradients.square()
    second = rows.second[run].lerp_(squares.mean(1, keepdim=True) if rows.second.shape[1] == 1 else squares, new2)
    spread = (second.sqrt() * root[:, None]).add_(schedule.epsilon)
    mean, square = rows.bias_moments[run].unbind(1)
    mean.lerp_(bias_gradients, new1)
    square.lerp_(bias_gradients.square(), new2)
    return moment / spread * size[:, None], size * mean / (square.sqrt() * root + schedule.epsilon)


def _store(rows: RowTensors, run: slice, values: Tensor, step: int, row_ids: Tensor) -> None:
    """Write float32 values [n, D], rounded to the rows' format."""
    if rows.weight.dtype == torch.float32:
        rows.weight[run] = values
    elif rows.compensation.shape[1]:
        rounded = _rounded(values, torch.tensor(NEAREST_BF16, dtype=torch.int32, device=values.device))
        rows.weight[run] = rounded
        rows.compensation[run] = values - rounded.float()
    elif rows.weight.dtype == torch.uint8:
        noise = _noise(step, row_ids, values.shape[1]) & 0xFFFFF
        rows.weight[run], rows.scale[run] = to_fp8(values, noise)
    else:
        rows.weight[run] = _rounded(values, _noise(step, row_ids, values.shape[1]) & 0xFFFF)


def _rounded(values: Tensor, noise: Tensor) -> Tensor:
    """bfloat16, up or down by whether the lower half and the noise carry over."""
    return (values.view(torch.int32) + noise).bitwise_right_shift(16).to(torch.int16).view(torch.bfloat16)


def _noise(step: int, row_ids: Tensor, width: int) -> Tensor:
    """The 32 bits of `row_values.noise_of` for rows [n] and all columns: int32 [n, D], which wraps around as uint32."""
    rows = row_ids.to(torch.int32)[:, None] * _signed(2654435761)
    columns = torch.arange(width, dtype=torch.int32, device=row_ids.device) * _signed(2246822519)
    mixed = rows ^ columns ^ _signed(step * 3266489917 & 0xFFFFFFFF)
    mixed = (mixed ^ _shifted(mixed, 15)) * _signed(2246822519)
    mixed = (mixed ^ _shifted(mixed, 13)) * _signed(3266489917)
    return mixed ^ _shifted(mixed, 16)


def _shifted(bits: Tensor, count: int) -> Tensor:
    """A shift to the right that moves zeros in, as for unsigned numbers."""
    return bits.bitwise_right_shift(count) & ((1 << (32 - count)) - 1)


def _signed(bits: int) -> int:
    return bits - (1 << 32) if bits >= 1 << 31 else bits
