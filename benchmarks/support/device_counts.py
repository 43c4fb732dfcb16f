"""Counts what a section of a program costs an accelerator and its host, line by line."""

from __future__ import annotations

import functools
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import cxml

_PROGRAM = str(Path(cxml.__file__).parent)
_LIBRARIES = (
    *(str(Path(str(module.__file__)).parent) for module in (torch, np)),
    *(str(module.__file__) for module in (threading, functools, mock)),
    str(Path(__file__).parent),
    "<",
)


@dataclass
class Counts:
    """Counts of each kind of cost, by the line of the program and the operation.

    Attributes:
        blocking: calls that made the host wait for values, or for sizes that depend on values.
        to_host: copies from the device to the host; copies that the host waits for are `blocking` as well.
        pageable: copies to the device from memory that is not pinned, for which the host waits too.
        pinned: copies to the device from pinned memory.
        launches: kernels outside the encoder; each collective and each Triton kernel counts as one.
        encoder: kernels of the encoder's forward and backward pass.
        numpy: calls of NumPy functions with an argument or result of at least as many elements as there are pairs.
        moved: bytes copied "to_host" and "to_device".
    """

    blocking: Counter[str] = field(default_factory=Counter)
    to_host: Counter[str] = field(default_factory=Counter)
    pageable: Counter[str] = field(default_factory=Counter)
    pinned: Counter[str] = field(default_factory=Counter)
    launches: Counter[str] = field(default_factory=Counter)
    encoder: Counter[str] = field(default_factory=Counter)
    numpy: Counter[str] = field(default_factory=Counter)
    moved: Counter[str] = field(default_factory=Counter)

    def totals(self) -> dict[str, int]:
        """Total count of each kind, without bytes."""
        return {kind: sum(counter.values()) for kind, counter in vars(self).items() if kind != "moved"}


class Watch:
    """Counts the costs of one thread and of the backward passes that it starts, or those of all threads.

    Attributes:
        counts: counts so far.
        in_encoder: whether the encoder's forward or backward pass is running.
        stand_ins: number of running calls that count as one kernel.
    """

    def __init__(self, *, in_all_threads: bool = False) -> None:
        self.counts = Counts()
        self._in_all_threads, self._lock = in_all_threads, threading.Lock()
        self.in_encoder = False
        self.stand_ins = 0
        self._thread = threading.current_thread()

    def is_here(self) -> bool:
        """Whether this thread is watched or belongs to autograd."""
        thread = threading.current_thread()
        return self._in_all_threads or thread is self._thread or isinstance(thread, threading._DummyThread)

    def note(self, kind: str, what: str) -> None:
        """Count one cost of a kind."""
        if self.is_here() and not self.stand_ins:
            with self._lock:
                getattr(self.counts, kind)[f"{_place()} {what}"] += 1

    def note_bytes(self, direction: str, count: int) -> None:
        """Count copied bytes."""
        if self.is_here():
            with self._lock:
                self.counts.moved[direction] += count

    def note_launch(self, what: str) -> None:
        """Count one launch."""
        self.note("encoder" if self.in_encoder else "launches", what)

    def encoder_begins(self, *_: object) -> None:
        """Mark the beginning of the encoder's forward or backward pass."""
        self.in_encoder = True

    def encoder_pauses(self) -> None:
        """Mark the end of the encoder's forward pass, or of the backward pass of the whole graph."""
        self.in_encoder = False

    def encoder_ends(self, _module: nn.Module, _inputs: object, outputs: object) -> object:
        """Forward hook: return the encoder's outputs through a gate that notices the gradients' return."""
        self.encoder_pauses()
        leaves, form = pytree.tree_flatten(outputs)
        learning = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.requires_grad]
        if learning:
            gated = _Gate.apply(self, *(leaves[place] for place in learning))
            for place, leaf in zip(learning, gated, strict=True):
                leaves[place] = leaf
        return pytree.tree_unflatten(leaves, form)


class _Gate(torch.autograd.Function):
    """Mark in the graph, below which there is only the encoder.

    Autograd runs the latest nodes first, so it has run everything computed from the outputs when it reaches the mark.
    """

    @staticmethod
    def forward(ctx, watch, *outputs):  # noqa: ANN001, ANN002, ANN205
        ctx.watch = watch
        ctx.set_materialize_grads(False)
        return tuple(output.view_as(output) for output in outputs)

    @staticmethod
    def backward(ctx, *gradients):  # noqa: ANN001, ANN002, ANN205
        ctx.watch.encoder_begins()
        torch.autograd.Variable._execution_engine.queue_callback(ctx.watch.encoder_pauses)
        return None, *gradients


@contextmanager
def watching(watch: Watch, encoder: nn.Module | None, pairs: int) -> Iterator[None]:
    """Make the watch observe the encoder and NumPy's functions within this context; see `fake_accelerator.counted`."""
    with ExitStack() as stack:
        if encoder is not None:
            stack.callback(encoder.register_forward_pre_hook(watch.encoder_begins).remove)
            stack.callback(encoder.register_forward_hook(watch.encoder_ends).remove)
        if pairs:
            for owner, name in _numpy_functions():
                observed = _observed(getattr(owner, name), name, watch, pairs)
                stack.enter_context(mock.patch.object(owner, name, observed))
        yield


def _numpy_functions() -> list[tuple[Any, str]]:
    """NumPy's public functions, and the two that convert arrays to and from torch tensors."""
    names = [name for name in dir(np) if not name.startswith("_")]
    is_function = {name: callable(getattr(np, name)) and not isinstance(getattr(np, name), type) for name in names}
    return [*((np, name) for name in names if is_function[name]), (torch, "from_numpy"), (Tensor, "numpy")]


class _Observed:
    """A NumPy function, or a method of one such as `np.add.at`, whose calls are counted."""

    _under_way = threading.local()  # NumPy's functions call each other

    def __init__(self, function: Callable[..., Any], name: str, watch: Watch, pairs: int) -> None:
        self._function, self._name, self._watch, self._pairs = function, name, watch, pairs
        functools.update_wrapper(self, function)

    def __call__(self, *args: object, **kwargs: object) -> object:
        if getattr(self._under_way, "is_set", False):
            return self._function(*args, **kwargs)
        self._under_way.is_set = True
        try:
            result = self._function(*args, **kwargs)
        finally:
            self._under_way.is_set = False
        if any(_size(value) >= self._pairs for value in pytree.tree_leaves((args, kwargs, result))):
            self._watch.note("numpy", self._name)
        return result

    def __get__(self, owner: object, kind: type | None = None) -> object:
        return functools.partial(self, owner)

    def __getattr__(self, name: str) -> object:
        found = getattr(self.__dict__["_function"], name)
        return _Observed(found, f"{self._name}.{name}", self._watch, self._pairs) if callable(found) else found


def _observed(function: Callable[..., Any], name: str, watch: Watch, pairs: int) -> object:
    return _Observed(function, name, watch, pairs)


def _size(value: object) -> int:
    if isinstance(value, Tensor):
        return value.numel()
    return value.size if isinstance(value, np.ndarray) else 0


def stand_in(function: Callable[..., Any], name: str, find_watch: Callable[[], Watch | None]) -> Callable[..., Any]:
    """Wrap a function such that a call counts as one launch and nothing inside it is counted."""

    @functools.wraps(function)
    def run(*args: object, **kwargs: object) -> object:
        watch = find_watch()
        if watch is None or not watch.is_here():
            return function(*args, **kwargs)
        watch.note_launch(name)
        watch.stand_ins += 1
        try:
            return function(*args, **kwargs)
        finally:
            watch.stand_ins -= 1

    return run


def _place() -> str:
    """The innermost line of cxml on the stack, or else the line that called a library."""
    frame, nearest = sys._getframe(1), ""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(_PROGRAM):
            return f"{Path(file).relative_to(_PROGRAM).as_posix()}:{frame.f_lineno}"
        if not nearest and not file.startswith(_LIBRARIES):
            nearest = f"{Path(file).name}:{frame.f_lineno}"
        frame = frame.f_back
    return nearest or "backward"
