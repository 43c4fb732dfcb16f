"""Triton's kernels as operators of torch, `torch.ops.cxml.*`: one launch each, nothing returned.

As operators they run where tensors have no data (fake tensors), and whoever counts operators counts launches. On the
CPU an operator runs in Triton's interpreter where TRITON_INTERPRET=1, else in plain torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from cxml.triton_cache import use_writable_cache

use_writable_cache()


@triton.jit
def _nothing() -> None:
    pass


IS_COMPILED = isinstance(_nothing, triton.JITFunction)


def runs_kernels(tensor: Tensor) -> bool:
    """Whether Triton runs what works on `tensor`, compiled or in its interpreter."""
    return tensor.device.type != "cpu" or not IS_COMPILED


def operator(schema: str, mutates: Sequence[str], stand_in: Callable[..., None]) -> Callable[[Any], Any]:
    """Make a function that launches a kernel the operator of its name; its first argument says where it runs.

    Args:
        schema: of the arguments, as `torch.library` has it.
        mutates: arguments that are written.
        stand_in: the same in plain torch.
    """

    def register(launch: Any) -> Any:  # noqa: ANN401 - a function becomes an operator
        def run(*arguments: Any) -> None:  # noqa: ANN401 - those of the schema
            first = arguments[0] if isinstance(arguments[0], Tensor) else arguments[0][0]
            (launch if runs_kernels(first) else stand_in)(*arguments)

        made = torch.library.custom_op(
            f"cxml::{launch.__name__.removeprefix('launch_')}", run, mutates_args=mutates, schema=f"({schema}) -> ()"
        )
        made.register_fake(lambda *_: None)
        return made

    return register


def grid(kernel: Any, *programs: int) -> Callable[..., None]:  # noqa: ANN401 - a kernel of Triton
    """What launches so many programs of a kernel."""
    return kernel[programs]
