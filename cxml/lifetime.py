"""Processes that end when the one that started them is gone, killed ones included."""

from __future__ import annotations

import ctypes
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import sys
import threading

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with_parent() -> None:
    """Have this process, one that `multiprocessing` started, killed when its parent is gone.

    On Linux the kernel does it, whatever this process is busy with; elsewhere a thread does.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "multiprocessing started this process"
    if sys.platform != "linux":
        threading.Thread(target=_die_after, args=(parent.sentinel,), name="cxml-lifetime", daemon=True).start()
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent.pid:  # it was gone before the kernel was asked
        os.kill(os.getpid(), signal.SIGKILL)


def ending_with_parent(number: signal.Signals) -> list[str]:
    """The beginning of a command line whose process gets the signal when its parent is gone; empty except on Linux."""
    is_possible = sys.platform == "linux" and shutil.which("setpriv")
    return ["setpriv", "--pdeathsig", number.name.removeprefix("SIG")] if is_possible else []


def _die_after(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os.kill(os.getpid(), signal.SIGKILL)
