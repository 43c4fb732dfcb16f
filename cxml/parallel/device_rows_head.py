"""Label rows in the memory of the accelerator, where the features are."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from cxml import extras
from cxml.accelerators import accelerator_type
from cxml.optim import RowState, RowTensors
from cxml.parallel.leaf_groups import LeafGroups
from cxml.parallel.rows_head import RowsHead, WantedRows


class DeviceRowsHead(RowsHead):
    """A `RowsHead` whose rows move to the features' device when they are used there.

    `state` brings them back to the host, for whoever saves or loads them. On the CPU both are the same memory.
    """

    _tensors: RowTensors | None = None

    @property
    def state(self) -> RowState:
        """The rows as host arrays, to read or to write; on the CPU they are the very memory that is trained."""
        if self._tensors is not None:
            self._tensors.copy_to(self._host_state)
            self._tensors = None
        return self._host_state

    @state.setter
    def state(self, state: RowState) -> None:
        self._host_state = state

    def rows_on(self, device: torch.device) -> tuple[RowTensors, Tensor]:
        """The rows on a device, and their label positions."""
        if self._tensors is None:
            self._tensors = RowTensors.of(self._host_state, device)
            self._positions = torch.from_numpy(self.layout.positions()).to(device)
        return self._tensors, self._positions


class TritonRowsHead(DeviceRowsHead):
    """A `RowsHead` that computes where its rows are, with fused kernels: `cxml.optim.row_triton`."""

    @staticmethod
    def can_run() -> bool:
        """Whether there is an accelerator, and Triton for it."""
        return accelerator_type() is not None and extras.is_installed("triton")

    def place(self, features: Tensor) -> Tensor:
        """See `RowsHead.place`."""
        return features

    def train_groups(
        self, groups: LeafGroups, features_BD: Tensor, inverse_counts: np.ndarray, is_true: np.ndarray, *,
        scale: float, mode: int,
    ) -> tuple[Tensor, np.ndarray]:  # fmt: skip
        """See `RowsHead.train_groups`."""
        from cxml.optim.row_triton import train_groups_on_device  # noqa: PLC0415 - Triton is an optional package

        device = features_BD.device
        rows, _ = self.rows_on(device)
        sums, kept = train_groups_on_device(
            groups.arrays(), features_BD, torch.from_numpy(inverse_counts).to(device),
            torch.from_numpy(is_true).to(device), scale, mode, self.schedule, self._log_decay(device), rows,
        )  # fmt: skip
        return sums, kept.cpu().numpy()

    def best_of(self, features_BD: Tensor, wanted: WantedRows, k: int) -> tuple[Tensor, Tensor]:
        """See `RowsHead.best_of`."""
        from cxml.optim.row_triton import best_rows_on_device  # noqa: PLC0415

        device = features_BD.device
        rows, _ = self.rows_on(device)
        pairs = [torch.from_numpy(array).to(device) for array in wanted.arrays()]
        return best_rows_on_device(features_BD, pairs, k, self._log_decay(device), self.schedule.step, rows)

    def update_touched(self, rows: np.ndarray, gradients: np.ndarray) -> None:
        """See `RowsHead.update_touched`. The gradients waited in host memory; the rows may have come back there too."""
        if self._tensors is None:
            super().update_touched(rows, gradients)
            return
        from cxml.optim.row_triton import update_rows_on_device  # noqa: PLC0415

        device = self._tensors.weight.device
        tensors, positions = self.rows_on(device)
        chosen = torch.from_numpy(rows).to(device)
        update_rows_on_device(
            tensors, self.schedule, self._log_decay(device), which=chosen,
            gradients=torch.from_numpy(gradients).to(device), row_ids=positions[chosen],
        )  # fmt: skip

    def _log_decay(self, device: torch.device) -> Tensor:
        return torch.from_numpy(self.schedule.log_decay[: self.schedule.step + 1]).to(device)
