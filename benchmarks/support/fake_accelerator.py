"""A fake accelerator: programs compute real numbers on it, and the operations that would cost a real one are counted.

Tensors of the device "fake" are held in host memory, and every operation on them runs there. Code that asks a tensor
for its device, its values or its size therefore works as on a real device:

    with fake_accelerator() as device:
        model.to(device)
        train()                                      # warm-up, since the first step makes more
        with counted(encoder=model.encoder, pairs=1024) as counts:
            train()
    assert not counts.blocking, counts.blocking      # counts by the line of the program and the operation

Other ranks can be simulated: in a process group of the backend "fake" every other rank contributes to a collective what
this rank contributes.

These costs are not seen: durations; further kernels of an operation that launches several (a sort, a cumulative sum, an
index_add that copies first), which counts as one; the casts of autocast; operators and methods of NumPy's arrays, and
compiled loops over them. Operations of other threads run, and are counted on request. Triton's kernels run in its
interpreter (TRITON_INTERPRET=1).

The device is registered once per process and stays registered; outside of `fake_accelerator` it is not in use. Use a
process that does nothing else.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from support.device_counts import Counts, Watch, stand_in, watching
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils import _pytree as pytree
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

__all__ = ["Counts", "counted", "fake_accelerator", "one_launch"]

_NAME = "fake"
_SUM = 0  # index of the sum in torch's list of reductions
_HOST = torch.device("cpu")
_aten = torch.ops.aten
_NO_LAUNCH = {
    _aten.empty.memory_format, _aten.empty_strided.default, _aten.empty_like.default, _aten.new_empty.default,
    _aten.new_empty_strided.default, _aten._unsafe_view.default, _aten.lift_fresh.default,
}  # fmt: skip
_INDEXING = {
    _aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default,
    _aten._unsafe_index.Tensor, _aten._unsafe_index_put.default,
}  # fmt: skip
_FACTORIES = (
    "empty.memory_format", "empty_strided", "arange", "arange.start", "arange.start_step", "eye", "eye.m", "linspace",
    "randperm", "tril_indices", "triu_indices",
)  # fmt: skip
_PINNING = (
    "empty", "empty_like", "empty_strided", "zeros", "zeros_like", "ones", "ones_like", "full", "full_like", "tensor",
    "rand", "randn", "arange",
)  # fmt: skip


@dataclass
class _Device:
    """State of the only device of this process.

    Attributes:
        is_on: whether `torch.accelerator` finds the device.
        watch: the watch that counts now, if any.
        pinned: storages in pinned memory, by address.
    """

    is_on: bool = False
    watch: Watch | None = None
    pinned: dict[int, StorageWeakRef] = field(default_factory=dict)

    def note(self, kind: str, what: str) -> None:
        """Count one cost of a kind if a watch is active."""
        if self.watch is not None:
            self.watch.note(kind, what)

    def note_bytes(self, direction: str, tensor: Tensor) -> None:
        """Count the bytes of a copied tensor if a watch is active."""
        if self.watch is not None:
            self.watch.note_bytes(direction, tensor.numel() * tensor.element_size())

    def note_launch(self, what: str) -> None:
        """Count one launch if a watch is active."""
        if self.watch is not None:
            self.watch.note_launch(what)


_device = _Device()


@contextmanager
def fake_accelerator() -> Iterator[torch.device]:
    """Make the accelerator available, and let host memory be pinned, within this context."""
    _register()
    patches: list[tuple[Any, str, Any]] = [
        (_device, "is_on", True),
        (Tensor, "pin_memory", _pin),
        (Tensor, "is_pinned", _is_pinned),
        (torch, "Event", _Event),
        (torch.accelerator, "synchronize", _synchronize),
        *((torch, name, _with_pinning(getattr(torch, name))) for name in _PINNING),
        *_triton_launchers(),
    ]
    with ExitStack() as stack:
        for owner, name, replacement in patches:
            stack.enter_context(mock.patch.object(owner, name, replacement))
        yield torch.device(_NAME, 0)


@contextmanager
def counted(
    *, encoder: nn.Module | None = None, pairs: int = 0, in_all_threads: bool = False
) -> Iterator[Counts]:  # fmt: skip
    """Count the costs of this thread within the context, and those of the backward passes that it starts.

    Args:
        encoder: a module whose forward and backward pass are counted separately. Its backward pass begins when the
            gradients of its outputs are computed, and ends with that of the whole graph.
        pairs: number of (text, leaf) pairs; calls of NumPy on arrays with at least as many elements are counted. 0
            counts no calls of NumPy.
        in_all_threads: whether to count other threads too.
    """
    assert _device.is_on, "within fake_accelerator"
    assert _device.watch is None, "only one count can be active"
    watch = Watch(in_all_threads=in_all_threads)
    with mock.patch.object(_device, "watch", watch), watching(watch, encoder, pairs):
        yield watch.counts


@contextmanager
def one_launch(owner: Any, *names: str) -> Iterator[None]:  # noqa: ANN401 - a class or a module
    """Let each call of the named functions of `owner` count as one launch and nothing inside it, within this context.

    This is for plain implementations of what is one kernel on a real device.
    """
    with ExitStack() as stack:
        for name in names:
            replacement = stand_in(getattr(owner, name), name, lambda: _device.watch)
            stack.enter_context(mock.patch.object(owner, name, replacement))
        yield


class DeviceTensor(torch.Tensor):
    """A tensor on the device, whose values are held by a tensor in host memory."""

    host: Tensor

    def __new__(cls, host: Tensor) -> DeviceTensor:
        """Take over a tensor without a gradient of its own."""
        made: DeviceTensor = torch.Tensor._make_wrapper_subclass(  # pyright: ignore[reportAttributeAccessIssue]
            cls, host.size(), strides=host.stride(), storage_offset=host.storage_offset(), dtype=host.dtype,
            device=torch.device(_NAME, 0),
        )  # fmt: skip
        made.host = host
        return made

    def __init__(self, host: Tensor) -> None:
        """See `__new__`."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN206
        """Count and compute one operation."""
        return _answer(func, args, kwargs or {})

    def __setitem__(self, index: Any, value: Any) -> None:  # noqa: ANN401 - whatever torch takes
        """Assign as on CUDA: a number stays on the host and becomes an argument of a kernel that takes one."""
        is_number = isinstance(value, bool | int | float)
        super().__setitem__(index, torch.tensor(value, dtype=self.dtype) if is_number else value)

    @property
    def data(self) -> Tensor:
        """A tensor with the same values without a gradient."""
        return torch.Tensor.data.__get__(self)  # pyright: ignore[reportAttributeAccessIssue]

    @data.setter
    def data(self, source: DeviceTensor) -> None:
        """Take over the memory of another tensor."""
        torch.Tensor.data.__set__(self, source)  # pyright: ignore[reportAttributeAccessIssue]
        self.host = source.host

    def record_stream(self, stream: object) -> None:
        """Do nothing: memory is freed with its last tensor, and all work is done by then."""

    def tolist(self) -> Any:  # noqa: ANN401 - nested lists
        """Return the values as Python numbers."""
        return self.cpu().tolist()

    def numpy(self, *, force: bool = False) -> Any:  # noqa: ANN401 - an array
        """Raise the error of any device."""
        if not force:
            raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() first.")
        return self.detach().cpu().numpy()

    def __format__(self, form: str) -> str:
        """Format as torch does: a scalar tensor takes the format of numbers."""
        return format(self.item() if self.ndim == 0 else repr(self), form)

    def __repr__(self, *, tensor_contents: object = None) -> str:
        return f"{self.host!r} on {self.device}"


def _answer(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # noqa: ANN401 - any operation
    if torch.is_inference_mode_enabled() and func._can_decompose():  # elsewhere autograd has decomposed it
        return func.decompose(*args, **kwargs)
    if func is _aten._to_copy.default and kwargs.get("device") == _HOST:
        return _to_host(args[0], kwargs)
    if func is _aten.record_stream.default:
        return None
    if func is _aten.copy_.default:
        return _copy(*args, **kwargs)
    _refuse_host_tensors(func, args, kwargs)
    _note(func, args, kwargs)
    hosts: dict[int, DeviceTensor] = {}
    inner_args, inner_kwargs = pytree.tree_map(functools.partial(_host_of, hosts), (args, kwargs))
    if inner_kwargs.get("device") is not None:
        inner_kwargs["device"] = _HOST
    result = func(*inner_args, **inner_kwargs)
    if func.namespace == "c10d":
        _echo(func, inner_args)
    for tensor in hosts.values():
        if tensor.host.shape != tensor.shape:
            raise NotImplementedError(f"{func} changed the shape of a tensor in place")
    with torch.inference_mode(torch.is_inference_mode_enabled() and not _is_view_of_normal(func, args)):
        result = pytree.tree_map(functools.partial(_on_device, hosts), result)
    return result if func.namespace == "c10d" else return_and_correct_aliasing(func, args, kwargs, result)


def _host_of(hosts: dict[int, DeviceTensor], leaf: object) -> object:
    if not isinstance(leaf, DeviceTensor):
        return leaf
    hosts[id(leaf.host)] = leaf
    return leaf.host


def _on_device(hosts: dict[int, DeviceTensor], leaf: object) -> object:
    if not isinstance(leaf, Tensor):
        return leaf
    return hosts[id(leaf)] if id(leaf) in hosts else DeviceTensor(leaf)


def _to_host(tensor: DeviceTensor, kwargs: dict[str, Any]) -> Tensor:
    """Copy to the host; a non-blocking copy goes to pinned memory and is not waited for."""
    may_go_on = kwargs.get("non_blocking", False)
    copied = _aten._to_copy.default(tensor.host, **kwargs)
    _note_to_host(tensor, is_waited_for=not may_go_on)
    return _mark_pinned(copied) if may_go_on else copied


def _copy(target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    """Compute `target.copy_(source)` between host and device in either direction, or within one of them."""
    if not isinstance(source, DeviceTensor):
        _note_to_device(source, target.dtype, is_waited_for=not non_blocking)
    elif isinstance(target, DeviceTensor):
        _device.note_launch("copy_")
    else:
        _note_to_host(source, is_waited_for=not (non_blocking and _is_pinned(target)))
    ends = [each.host if isinstance(each, DeviceTensor) else each for each in (target, source)]
    ends[0].copy_(ends[1])
    return target


def _note_to_host(tensor: Tensor, *, is_waited_for: bool) -> None:
    if tensor.numel():
        _device.note("to_host", "copy to the host")
        _device.note_bytes("to_host", tensor)
        if is_waited_for:
            _device.note("blocking", "copy to the host")


def _note_to_device(tensor: Tensor, dtype: torch.dtype, *, is_waited_for: bool = True) -> None:
    if not tensor.numel():
        return
    _device.note_bytes("to_device", tensor)
    if not _is_pinned(tensor) or tensor.dtype != dtype:  # a cast is made first, in pageable memory
        _device.note("pageable", "copy to the device")
        return
    _device.note("pinned", "copy to the device")
    if is_waited_for:
        _device.note("blocking", "copy to the device, waited for")


def _refuse_host_tensors(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ANN401
    """Raise an error for host tensors among device tensors, as a device would; scalar tensors are accepted."""
    if func in _INDEXING or func.namespace == "c10d":
        return
    tensors = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if any(tensor.ndim and not isinstance(tensor, DeviceTensor) for tensor in tensors):
        raise RuntimeError(f"Expected all tensors to be on the same device, but {func} got some on the host")


def _note(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:  # noqa: ANN401
    """Count the costs of an operation."""
    if func.is_view or func in _NO_LAUNCH or _is_alias(func):
        return
    what = str(func).removeprefix("aten.").removesuffix(".default")
    if func is _aten._local_scalar_dense.default:
        _device.note("blocking", "item")
        return
    if func in _INDEXING:
        _note_index(what, args)
    elif _waits(func, args, kwargs):
        _device.note("blocking", what)
    _device.note_launch(what)


def _is_alias(func: Any) -> bool:  # noqa: ANN401
    """Whether the result shares memory with an argument that is not written, as views do."""
    returned = [each.alias_info for each in func._schema.returns]
    return bool(returned) and all(info is not None and not info.is_write for info in returned)


def _is_view_of_normal(func: Any, args: tuple[Any, ...]) -> bool:  # noqa: ANN401
    """Whether the result is a view of a tensor made outside of inference mode, so that the view counts as such too."""
    return _is_alias(func) and not args[0].is_inference()


def _note_index(what: str, args: tuple[Any, ...]) -> None:
    """Count copies of indices from the host, and the search for the true elements of a mask."""
    indices, values = [index for index in args[1] if index is not None], args[2:3]
    masks = [index for index in indices if index.dtype in (torch.bool, torch.uint8)]
    is_masked_fill = len(masks) == len(indices) == 1 and any(_is_of_host(value) for value in values)
    for tensor in indices if is_masked_fill else [*indices, *values]:
        if _is_of_host(tensor):
            _note_to_device(tensor, tensor.dtype)
    if masks and not is_masked_fill:
        _device.note("blocking", f"{what} by a mask")


def _is_of_host(value: object) -> bool:
    return isinstance(value, Tensor) and not isinstance(value, DeviceTensor)


def _waits(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:  # noqa: ANN401
    """Whether the host needs values from the device to continue."""
    if func is _aten.repeat_interleave.Tensor:
        return kwargs.get("output_size", args[1] if len(args) > 1 else None) is None
    if func.namespace == "c10d":
        return "barrier" in str(func)
    return bool({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags))


def _echo(func: Any, args: tuple[Any, ...]) -> None:  # noqa: ANN401
    """Write the result of a collective in which every other rank contributes what this rank contributes."""
    objects = [arg for arg in args if isinstance(arg, torch.ScriptObject)]
    group = dist.ProcessGroup.unbox(objects[0])  # pyright: ignore[reportAttributeAccessIssue]
    size, rank, name = group.size(), group.rank(), str(func).split(".")[1]
    is_sum = len(objects) > 1 and objects[1].op() == _SUM  # pyright: ignore[reportAttributeAccessIssue]
    factor = size if is_sum else 1
    if name == "allreduce_":
        for tensor in args[0]:
            tensor.mul_(factor)
    elif name == "_reduce_scatter_base_":
        args[0].copy_(args[1].view(size, *args[0].shape)[rank] * factor)
    elif name == "reduce_scatter_":
        for own, parts in zip(args[0], args[1], strict=True):
            own.copy_(parts[rank] * factor)
    elif name == "alltoall_base_":
        _echo_parts(
            args[0], args[1], args[3] or [len(args[0]) // size] * size, args[4] or [len(args[1]) // size] * size
        )
    elif name == "alltoall_":
        for received, sent in zip(args[0], args[1], strict=True):
            _echo_parts(received, sent, [len(received)], [len(sent)])


def _echo_parts(target: Tensor, source: Tensor, received: list[int], sent: list[int]) -> None:
    """Fill the received parts: each other rank sends back what it was sent, repeated up to the expected size."""
    for own, theirs in zip(target.split(received), source.split(sent), strict=True):
        if len(own):
            assert len(theirs), "a rank that was sent nothing has nothing to send back"
            own.copy_(theirs[torch.arange(len(own)) % len(theirs)])


class _Backend:
    """Functions that torch expects in the module of a device."""

    def is_available(self) -> bool:
        """Whether the device is in use."""
        return _device.is_on

    def is_initialized(self) -> bool:
        """True, since there is nothing to initialise."""
        return True

    def device_count(self) -> int:
        """Return 1, the number of devices."""
        return 1

    def current_device(self) -> int:
        """Index of the only device."""
        return 0

    def synchronize(self, device: object = None) -> None:
        """Wait for the device."""
        _synchronize(device)

    def manual_seed_all(self, seed: int) -> None:
        """Seed the host's generator, from which random numbers come."""

    manual_seed = manual_seed_all

    def get_rng_state(self, device: object = None) -> Tensor:  # noqa: ARG002
        """State of the host's generator."""
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: object = None) -> None:  # noqa: ARG002
        """Set the state of the host's generator."""
        torch.set_rng_state(state)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        """Types in which autocast may compute."""
        return [torch.bfloat16, torch.float16]

    def _is_in_bad_fork(self) -> bool:
        return False


class _Event(torch.Event):
    def synchronize(self) -> None:
        _device.note("blocking", "Event.synchronize")


def _synchronize(device: object = None) -> None:  # noqa: ARG001
    _device.note("blocking", "synchronize")


def _pin(tensor: Tensor, device: object = None) -> Tensor:  # noqa: ARG001
    if isinstance(tensor, DeviceTensor):
        raise RuntimeError("only dense CPU tensors can be pinned")  # noqa: TRY004 - as torch has it
    return tensor if _is_pinned(tensor) else _mark_pinned(tensor.clone())


def _is_pinned(tensor: Tensor, device: object = None) -> bool:  # noqa: ARG001
    if isinstance(tensor, DeviceTensor):
        return False
    found = _device.pinned.get(tensor.untyped_storage()._cdata)
    return found is not None and not found.expired()


def _mark_pinned(tensor: Tensor) -> Tensor:
    _device.pinned = {address: storage for address, storage in list(_device.pinned.items()) if not storage.expired()}
    storage = StorageWeakRef(tensor.untyped_storage())
    _device.pinned[storage.cdata] = storage
    return tensor


def _with_pinning(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Wrap a function that makes tensors such that its argument `pin_memory` has an effect."""

    @functools.wraps(make)
    def run(*args: object, pin_memory: bool = False, **kwargs: object) -> Tensor:
        made = make(*args, **kwargs)
        return _mark_pinned(made) if pin_memory else made

    return run


def _triton_launchers() -> list[tuple[Any, str, Callable[..., Any]]]:
    """Functions that launch Triton's kernels, with their replacements; empty without Triton."""
    try:
        interpreter = importlib.import_module("triton.runtime.interpreter")
        compiler = importlib.import_module("triton.runtime.jit")
    except ImportError:
        return []
    interpret, compiled = interpreter.GridExecutor.__call__, compiler.JITFunction.run

    def launch(executor: Any, *args: object, **kwargs: object) -> object:  # noqa: ANN401 - Triton's own
        hosts: dict[int, DeviceTensor] = {}
        inner_args, inner_kwargs = pytree.tree_map(functools.partial(_host_of, hosts), (args, kwargs))
        run = stand_in(interpret, executor.fn.__name__, lambda: _device.watch) if hosts else interpret
        return run(executor, *inner_args, **inner_kwargs)

    def refuse(kernel: Any, *args: object, **kwargs: object) -> object:  # noqa: ANN401
        if any(isinstance(leaf, DeviceTensor) for leaf in pytree.tree_leaves((args, kwargs))):
            raise RuntimeError(f"{kernel.__name__} runs here only in the interpreter; set TRITON_INTERPRET=1")
        return compiled(kernel, *args, **kwargs)

    return [(interpreter.GridExecutor, "__call__", launch), (compiler.JITFunction, "run", refuse)]


@functools.cache
def _register() -> tuple[torch.library.Library, ...]:
    """Register the device with torch, once per process; the caller has to keep the libraries."""
    _device_constructors()  # stores torch's functions before they are replaced
    _setup_privateuseone_for_python_backend(_NAME, backend_module=_Backend())
    library, fallbacks = torch.library.Library("aten", "IMPL"), torch.library.Library("_", "IMPL")
    fallbacks.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    for name in _FACTORIES:
        packet, _, overload = name.partition(".")
        library.impl(name, _factory(getattr(getattr(_aten, packet), overload or "default")), "PrivateUse1")
    library.impl("_copy_from", _copy_from, "PrivateUse1")
    return library, fallbacks


def _copy_from(source: Tensor, target: Tensor, non_blocking: bool = False) -> Tensor:
    return _copy(target, source, non_blocking)


def _factory(overload: Any) -> Callable[..., Tensor]:  # noqa: ANN401
    """Function that makes tensors on the device by wrapping tensors made on the host."""

    def make(*args: object, **kwargs: object) -> Tensor:
        if overload not in _NO_LAUNCH:
            _device.note_launch(str(overload).removeprefix("aten."))
        kwargs = {name: value for name, value in kwargs.items() if name != "pin_memory"}
        return DeviceTensor(overload(*args, **{**kwargs, "device": _HOST}))

    return make
