"""Triton's cache folder for users without a writable home folder."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path


def use_writable_cache() -> None:
    """Make Triton use a private temporary folder if its cache is not writable; the folder is deleted with this process.

    TRITON_CACHE_DIR and TRITON_HOME set another folder. All releases of Triton read these variables.
    """
    home = os.environ.get("TRITON_HOME") or os.path.expanduser("~")  # noqa: PTH111 - a Path refuses a user without one
    folder = Path(os.environ.get("TRITON_CACHE_DIR") or Path(home, ".triton", "cache"))
    try:
        if not folder.is_absolute():
            raise PermissionError("the user has no home directory")
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        private = tempfile.mkdtemp(prefix=f"cxml-triton-{os.getpid()}-")
        os.environ["TRITON_CACHE_DIR"] = private
        atexit.register(shutil.rmtree, private, ignore_errors=True)
