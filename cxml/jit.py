"""numba's `njit` with an optional cache on disk.

When a function is decorated, numba looks for a cache folder: NUMBA_CACHE_DIR, `__pycache__` next to the source file, or
`numba` in the user's cache folder. numba's `cache=True` raises an error if none of them is writable, or if the chosen
folder fails later. `cached_njit` then compiles kernels in memory.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba import njit

from cxml.internals.numba import (
    CompileResultCacheImpl,
    FunctionCache,
    InTreeCacheLocator,
    UserProvidedCacheLocator,
    UserWideCacheLocator,
    set_cache,
)
from cxml.operating_system import others_may_write, user_id

FAST_MATH = {"reassoc", "contract", "nsz", "arcp"}
"""Floating-point optimisations that numba may use: reordered sums, fused products; NaN and infinity are kept."""
_log = logging.getLogger(__name__)
_running = threading.Lock()


def cached_njit(**options: Any) -> Callable[[Callable[..., Any]], Any]:  # noqa: ANN401 - numba's own
    """`numba.njit(**options)` with machine code cached on disk if there is a safe folder.

    With `parallel`, the function runs on as many threads as PyTorch uses in the calling thread, and several Python
    threads may call it at the same time. Other compiled functions cannot call it.
    """

    def decorate(function: Callable[..., Any]) -> Any:  # noqa: ANN401
        kernel: Any = njit(**options)(function)
        if hasattr(kernel, "enable_caching"):  # NUMBA_DISABLE_JIT returns the plain function
            try:
                set_cache(kernel, _KernelCache(function))
            except RuntimeError:
                _log_once("there is no writable folder")
        return _beside_torch(kernel) if options.get("parallel") else kernel

    return decorate


def _beside_torch(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """A parallel kernel that shares the machine with PyTorch and with other callers.

    It uses PyTorch's number of threads; if both use OpenMP, numba would otherwise set PyTorch's number to all cores. If
    numba uses its own threads, callers wait for each other, because concurrent calls abort the process.
    """

    @functools.wraps(kernel)
    def call(*arguments: Any) -> Any:  # noqa: ANN401
        import torch  # noqa: PLC0415 - a second, which the processes that build a tree need not wait

        num_threads = torch.get_num_threads()
        numba.set_num_threads(min(num_threads, numba.config.NUMBA_NUM_THREADS))  # pyright: ignore
        try:
            with contextlib.nullcontext() if _has_safe_threads() else _running:
                return kernel(*arguments)
        finally:
            if torch.get_num_threads() != num_threads:
                torch.set_num_threads(num_threads)

    return call


def _has_safe_threads() -> bool:
    """Whether numba uses OpenMP or TBB; unknown before the first parallel kernel has run."""
    try:
        return numba.threading_layer() != "workqueue"  # pyright: ignore[reportPrivateImportUsage]
    except ValueError:
        return False


class _PackageStamp:
    """A cache stamp over all sources of the package, because machine code includes functions of other modules.

    numba checks only the function's own file, and would run outdated code after a change in another file.
    """

    _py_file: str

    def get_source_stamp(self) -> str:
        return _digest_of_sources(Path(self._py_file).parent)


class _OwnHomeLocator(UserWideCacheLocator):
    """The user's cache folder, unless other users could place code there."""

    def ensure_cache_path(self) -> None:
        folder = Path(self.get_cache_path())
        if not folder.is_absolute():
            # Without HOME and a password entry, numba would create a folder named ~ in the working directory.
            raise PermissionError("the user has no home directory")
        super().ensure_cache_path()
        if not is_private(folder):
            raise PermissionError(f"{folder} can be changed by other users")


class _KernelCacheImpl(CompileResultCacheImpl):
    _locator_classes = tuple(
        type(each.__name__, (_PackageStamp, _OwnHomeLocator if each is UserWideCacheLocator else each), {})
        for each in (UserProvidedCacheLocator, InTreeCacheLocator, UserWideCacheLocator)
    )


class _KernelCache(FunctionCache):
    """numba's cache of one function. Read errors lead to a compilation, and write errors are ignored."""

    _impl_class = _KernelCacheImpl

    def load_overload(self, sig: Any, target_context: Any) -> Any:  # noqa: ANN401
        try:
            return super().load_overload(sig, target_context)
        except Exception as error:  # a damaged pickle can raise any error
            _log_once(f"{self.cache_path}: {type(error).__name__}")
            with contextlib.suppress(OSError):
                self.flush()  # a damaged index would also make the next save fail
            return None

    def save_overload(self, sig: Any, data: Any) -> None:  # noqa: ANN401
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _log_once(f"{self.cache_path}: {error.strerror}")


def is_private(folder: Path) -> bool:
    """Whether only this user and root can change the content of an existing folder.

    Folders with write permission for the group are not private. A parent with the sticky bit, such as /tmp, protects
    the folders in it.
    """
    real = folder.resolve()
    for place in (real, *real.parents):
        facts = place.stat()
        is_open = others_may_write(facts) and (place == real or not facts.st_mode & stat.S_ISVTX)
        if facts.st_uid not in (0, user_id()) or is_open:
            return False
    return True


@functools.cache
def _digest_of_sources(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.py")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()


@functools.cache
def _log_once(reason: str) -> None:
    _log.info("Compiled code is not cached on disk (%s). Set NUMBA_CACHE_DIR to a folder to cache it.", reason)
