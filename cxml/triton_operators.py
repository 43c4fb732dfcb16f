"""Triton kernels as torch operators, `torch.ops.cxml.*`, with one launch each and no return value.

Operators also support fake tensors, and counting operators counts launches. On the CPU, an operator runs in Triton's
interpreter if TRITON_INTERPRET=1, else in plain torch.
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
    """Whether Triton kernels process `tensor`, compiled or in the interpreter."""
    return tensor.device.type != "cpu" or not IS_COMPILED


def operator(schema: str, mutates: Sequence[str], stand_in: Callable[..., None]) -> Callable[[Any], Any]:
    """Register a function that launches a kernel as the operator of its name; its first argument determines the device.

    Args:
        schema: schema of the arguments for `torch.library`.
        mutates: arguments that are written.
        stand_in: equivalent function in plain torch.
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
    """A launcher of a kernel with this number of programs."""
    return kernel[programs]
