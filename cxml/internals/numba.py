"""Private parts of numba: the classes of its cache on disk, and the cache of a compiled function."""

from __future__ import annotations

from typing import Any

from numba.core.caching import (
    CompileResultCacheImpl,
    FunctionCache,
    InTreeCacheLocator,
    UserProvidedCacheLocator,
    UserWideCacheLocator,
)

SEEN_IN = "0.68.1"
NAMES = (
    "numba.core.caching.CompileResultCacheImpl._locator_classes",
    "numba.core.caching.FunctionCache._impl_class",
    "numba.core.caching.FunctionCache.load_overload",
    "numba.core.caching.FunctionCache.save_overload",
    "numba.core.caching.FunctionCache.flush",
    "numba.core.caching.InTreeCacheLocator.get_source_stamp",
    "numba.core.caching.UserProvidedCacheLocator.get_source_stamp",
    "numba.core.caching.UserWideCacheLocator.ensure_cache_path",
    "numba.core.caching.InTreeCacheLocator:_py_file",
    "numba.core.caching.UserProvidedCacheLocator:_py_file",
    "numba.core.caching.UserWideCacheLocator:_py_file",
    "numba.core.dispatcher.Dispatcher:_cache",
)

__all__ = [
    "NAMES",
    "SEEN_IN",
    "CompileResultCacheImpl",
    "FunctionCache",
    "InTreeCacheLocator",
    "UserProvidedCacheLocator",
    "UserWideCacheLocator",
    "set_cache",
]


def set_cache(kernel: Any, cache: FunctionCache) -> None:  # noqa: ANN401 - what `njit` gives
    """Make a compiled function store its machine code in this cache; `cache=True` would create numba's default one."""
    kernel._cache = cache
