"""Whether to use fused kernels instead of many small torch operations.

On an accelerator, the cost of a small operation is its launch. CPUs, and accelerators without Triton, run plain torch.
"""

from __future__ import annotations

from torch import Tensor

from cxml import extras


def is_fused(tensor: Tensor) -> bool:
    """Whether to process a tensor with Triton kernels: it is on an accelerator, and Triton is installed."""
    return tensor.device.type not in {"cpu", "meta"} and extras.is_installed("triton")
