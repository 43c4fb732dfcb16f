"""List and delete everything below a path of a file system. Paths are literal, unlike in fsspec's `rm`."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from glob import has_magic
from typing import Any, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem

LOCK = ".lock"
"""Name of a lock in the folder that it locks (`cxml.storage.locks`). It is not part of a data set or model."""

_PARALLEL_DELETES = 16


def sizes_below(fs: fsspec.AbstractFileSystem, root: str) -> dict[str, int]:
    """The size in bytes of every file below `root` except the lock, by relative path; empty if there is no folder."""
    fs.invalidate_cache()  # other processes may have written to it
    found = cast(dict[str, Any], fs.find(root, detail=True))
    sizes = {path.removeprefix(root).lstrip("/"): _size(fs, path, facts) for path, facts in sorted(found.items())}
    return {path: size for path, size in sizes.items() if path.split("/", 1)[0] != LOCK}


def _size(fs: fsspec.AbstractFileSystem, path: str, facts: Mapping[str, Any]) -> int:
    """The size of a file that `find` has listed; 0 if an HTTP server does not tell it."""
    size = facts.get("size")
    if size is None:  # of files over HTTP, which have no listing with sizes
        size = fs.info(path)["size"]
    return int(size or 0)


def remove_all(fs: fsspec.AbstractFileSystem, path: str, *, keep_lock: bool = False) -> None:
    """Delete a file, or a folder with its content; `keep_lock` keeps the lock. Does nothing if it does not exist.

    Raises:
        OSError: some files could not be deleted.
    """
    fs.invalidate_cache()  # other processes may have written to it
    lock = f"{path}/{LOCK}"
    if isinstance(fs, LocalFileSystem):
        is_locked = keep_lock and fs.exists(lock)
        for each in fs.ls(path, detail=False) if is_locked else [path]:
            if not (is_locked and each == lock):
                with contextlib.suppress(FileNotFoundError):
                    fs.rm(each, recursive=True)
        return
    found = cast(dict[str, Any], fs.find(path, withdirs=True, detail=True))
    if keep_lock:
        found = {name: facts for name, facts in found.items() if not f"{name}/".startswith(f"{lock}/")}
    folders = [name for name, facts in found.items() if facts["type"] == "directory"]
    _remove_files(fs, sorted(found.keys() - folders))
    for folder in sorted({path, *folders} - (found.keys() - folders), reverse=True):  # inner folders first
        _remove_folder(fs, folder)
    # A store may report that it deleted only some files, and s3fs does not raise an error then.
    left = sum(size > 0 for size in sizes_below(fs, path).values())
    if left:
        raise OSError(f"{left} files are still there after deleting")


def _remove_files(fs: fsspec.AbstractFileSystem, paths: list[str]) -> None:
    """Delete files, many per request where the store supports it. Names that `fs.rm` would expand go one by one."""
    at_once = [path for path in paths if fs.async_impl and not has_magic(path)]
    if at_once:
        with contextlib.suppress(FileNotFoundError):
            fs.rm(at_once)
    with ThreadPoolExecutor(_PARALLEL_DELETES if fs.async_impl else 1) as pool:
        list(pool.map(functools.partial(_remove_file, fs), sorted({*paths} - {*at_once})))


def _remove_file(fs: fsspec.AbstractFileSystem, path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        fs.rm_file(path)


def _remove_folder(fs: fsspec.AbstractFileSystem, path: str) -> None:
    """Delete an empty folder if the store has folders, or the object that represents it. Buckets are kept."""
    if "/" not in path.strip("/"):
        return
    try:
        fs.rmdir(path)
    except FileNotFoundError:
        pass
    except FileExistsError:  # s3fs raises this for an object
        fs.rm_file(path)
