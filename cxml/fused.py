"""Where many small operations of torch are one kernel instead.

On an accelerator a small operation costs its launch, whatever it computes. Processors run plain torch, and so does an
accelerator without Triton.
"""

from __future__ import annotations

from torch import Tensor

from cxml import extras


def is_fused(tensor: Tensor) -> bool:
    """Whether Triton's kernels are to work on a tensor: it is on an accelerator, and Triton is installed."""
    return tensor.device.type not in {"cpu", "meta"} and extras.is_installed("triton")
