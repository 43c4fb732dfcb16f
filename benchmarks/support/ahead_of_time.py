"""Compiles Triton kernels for NVIDIA cards on any machine, from recorded launches of the functions that use them."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from cxml import triton_operators

_WARP = 32
_TYPES = {
    torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.float64: "*fp64",
    torch.uint8: "*u8", torch.int32: "*i32", torch.int64: "*i64",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A kernel with its runtime arguments, its compile-time arguments and the compiler's options."""

    kernel: triton.JITFunction
    arguments: dict[str, object]
    constants: dict[str, object]
    options: dict[str, object]

    @property
    def name(self) -> str:
        """Name of the kernel."""
        return self.kernel.__name__


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """Result of compiling a launch.

    Attributes:
        spilled: bytes that one thread spills to memory for lack of registers.
        registers: registers of one thread.
        shared: bytes of shared memory of one program.
        products: number of tensor-core instructions in the code.
        seconds: CPU seconds of the compilation.
    """

    spilled: int
    registers: int
    shared: int
    products: int
    seconds: float


@contextmanager
def recorded_launches() -> Iterator[list[Launch]]:
    """Record kernel launches within this context instead of running them; outputs keep their initial values."""
    launches: list[Launch] = []

    def record(kernel: triton.JITFunction, *values: object, **named: object) -> None:
        arguments = dict(zip(kernel.arg_names, values, strict=False)) | named
        is_constant = {param.name: param.is_constexpr for param in kernel.params}
        launches.append(
            Launch(
                kernel=kernel,
                arguments={name: arguments[name] for name in kernel.arg_names if not is_constant[name]},
                constants={name: arguments[name] for name in kernel.arg_names if is_constant[name]},
                options={name: named[name] for name in ("num_warps", "num_stages", "maxnreg") if name in named},
            )
        )

    with (
        mock.patch.object(triton.JITFunction, "run", record),
        mock.patch.object(triton_operators, "runs_kernels", return_value=True),
    ):
        yield launches


def compile_launch(launch: Launch, capability: int) -> Compiled:
    """Compile a launch for a compute capability such as 90; TRITON_ALWAYS_COMPILE=1 bypasses Triton's cache."""
    source = _source(launch)
    began = _cpu_seconds()
    binary = triton.compile(source, target=GPUTarget("cuda", capability, _WARP), options=launch.options)
    seconds = _cpu_seconds() - began
    report = _assemble(binary.asm["ptx"])
    return Compiled(
        spilled=_number(r"(\d+) bytes spill stores", report),
        registers=_number(r"Used (\d+) registers", report),
        shared=binary.metadata.shared,
        products=len(re.findall(r"\bw?g?mma\.(?:sync|mma_async)\b", binary.asm["ptx"])),
        seconds=seconds,
    )


def _cpu_seconds() -> float:
    """CPU seconds of this process and of its ended child processes."""
    times = os.times()
    return sum(times[:4])


def _source(launch: Launch) -> ASTSource:
    signature = {name: _type(value) for name, value in launch.arguments.items()}
    aligned = [
        (launch.kernel.arg_names.index(name),)
        for name, value in launch.arguments.items()
        if isinstance(value, torch.Tensor) and value.data_ptr() % 16 == 0
    ]
    if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 3):
        from triton.backends.compiler import AttrsDescriptor  # noqa: PLC0415 # pyright: ignore[reportAttributeAccessIssue]

        attributes = AttrsDescriptor.from_dict(
            {"arg_properties": {"tt.divisibility": [index for (index,) in aligned]}, "cls": "AttrsDescriptor"}
        )
        return ASTSource(launch.kernel, signature, constants=launch.constants, attrs=attributes)  # pyright: ignore[reportCallIssue]
    signature |= dict.fromkeys(launch.constants, "constexpr")
    ordered = {name: signature[name] for name in launch.kernel.arg_names}
    divisible = {index: [["tt.divisibility", 16]] for index in aligned}
    return ASTSource(launch.kernel, ordered, constexprs=launch.constants, attrs=divisible)


def _type(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return _TYPES[value.dtype]
    return "fp32" if isinstance(value, float) else "i32"


def _assemble(ptx: str) -> str:
    """Report of the assembler that comes with Triton; of two assemblers the older one that accepts the code is used."""
    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    target = re.search(r"^\.target (\w+)", ptx, re.MULTILINE)
    assert target
    errors = ""
    for assembler in sorted(folder.glob("ptxas*")):
        with tempfile.TemporaryDirectory() as scratch:
            Path(scratch, "kernel.ptx").write_text(ptx)
            words = [assembler, "-v", f"--gpu-name={target[1]}", "kernel.ptx", "-o", "kernel.cubin"]
            done = subprocess.run(words, cwd=scratch, check=False, capture_output=True, text=True)
        if not done.returncode:
            return done.stderr
        errors += done.stdout + done.stderr
    raise RuntimeError(errors)


def _number(pattern: str, report: str) -> int:
    """Largest value that `pattern` finds over all functions of a kernel."""
    found = re.findall(pattern, report)
    assert found, report
    return max(map(int, found))
