"""Where Triton keeps what it compiles, for users without a writable home."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from triton import knobs


def use_writable_cache() -> None:
    """Let Triton compile into a private temporary folder where its own is not writable; it goes with this process.

    TRITON_CACHE_DIR and TRITON_HOME name another folder.
    """
    folder = Path(knobs.cache.dir)
    try:
        if not folder.is_absolute():
            raise PermissionError("the user has no home directory")
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        knobs.cache.dir = tempfile.mkdtemp(prefix=f"cxml-triton-{os.getpid()}-")
        atexit.register(shutil.rmtree, knobs.cache.dir, ignore_errors=True)
