"""Open the file system behind a URL, and try again what a store may recover from."""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from cxml import extras, urls
from cxml.errors import StorageError
from cxml.operating_system import absolute_path

_T = TypeVar("_T")
# A retry cannot fix these errors. Every other OSError from a remote store is retried.
_FINAL_ERRORS = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
_ATTEMPTS = 6
_CLIENT_LIBRARIES = ("aiohttp", "botocore", "aiobotocore", "google", "azure")


def filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The fsspec file system that serves `url`, and the path inside it."""
    urls.remember_credentials(url)
    url = urls.unmasked(url)
    try:
        fs, path = _open(url)
    except ImportError as error:
        problem = f"{url}: cannot open this kind of URL ({error})."
        raise StorageError(f"{problem} {extras.remedy(error) or 'Install its fsspec driver.'}") from _shown_cause(error)
    except (ValueError, OSError, zipfile.BadZipFile, tarfile.TarError) as error:  # archives are opened here
        problem = f"{url}: cannot open this kind of URL ({error}). Check the URL."
        raise StorageError(problem) from _shown_cause(error)
    if isinstance(fs, LocalFileSystem) and "\0" in path:
        raise StorageError(f"{url!r}: a file name cannot contain a NUL character. Check the path.")
    try:
        os.fsencode(path if isinstance(fs, LocalFileSystem) else "")
    except UnicodeEncodeError as error:
        remedy = "Use a UTF-8 locale, such as LC_ALL=C.UTF-8, or another name."
        raise StorageError(f"{url}: the locale cannot encode this file name ({error}). {remedy}") from error
    return fs, path


def _open(url: str) -> tuple[fsspec.AbstractFileSystem, str]:
    if urls.is_chain(url):
        return fsspec.core.url_to_fs(url)
    scheme = urls.scheme(url)
    if scheme in ("", "file", "local"):
        return _local_filesystem(url.removeprefix(f"{scheme}://"))
    kind = fsspec.get_filesystem_class(scheme)
    options = kind._get_kwargs_from_urls(url)
    return fsspec.filesystem(scheme, **options), cast(str, kind._strip_protocol(url))


def _local_filesystem(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Make a path absolute as the operating system reads it: fsspec interprets paths such as `local:x`."""
    try:
        return fsspec.filesystem("file"), absolute_path(path)
    except FileNotFoundError as error:
        raise StorageError(f"{path}: the working directory was deleted. Change into another one.") from error


def local_path(url: str) -> Path | None:
    """The `Path` of `url` if it is on a local disk, else None."""
    fs, path = filesystem(url)
    return Path(path) if isinstance(fs, LocalFileSystem) else None


def with_retries(url: str, action: Callable[[], _T]) -> _T:
    """Run `action` and retry errors the store may recover from, with growing pauses. Raises `StorageError`."""
    is_local = local_path(url) is not None

    def may_recover(error: BaseException) -> bool:
        return not is_local and _is_storage_error(error) and not isinstance(error, _FINAL_ERRORS)

    attempts = Retrying(
        retry=retry_if_exception(may_recover),
        stop=stop_after_attempt(_ATTEMPTS),
        wait=wait_random_exponential(multiplier=0.2, max=10),
        reraise=True,
    )
    try:
        return attempts(action)
    except (FileNotFoundError, FileExistsError) as error:
        if _is_safe_to_show(error):
            raise
        raise type(error)(error.errno, urls.masked(error.strerror or str(error)), urls.masked(url)) from None
    except Exception as error:
        if not _is_storage_error(error) and not isinstance(error, ValueError):  # a URL that a client cannot parse
            raise
        problem = f"{url}: {error}. Check the path, the disk and the credentials, then run again."
        raise StorageError(problem) from _shown_cause(error)


def _shown_cause(error: BaseException) -> BaseException | None:
    """The error to show as the cause of another one; None if its message may contain credentials."""
    return error if _is_safe_to_show(error) else None


def _is_safe_to_show(error: BaseException) -> bool:
    return urls.masked(str(error)) == str(error)


def _is_storage_error(error: BaseException) -> bool:
    """Whether a disk or a store failed. Clients of stores also raise errors other than `OSError`."""
    return isinstance(error, OSError) or type(error).__module__.split(".")[0] in _CLIENT_LIBRARIES
