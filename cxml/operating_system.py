"""Differences between Linux, macOS and Windows. No other module checks the system or uses system-specific calls.

cxml is developed and tested on Linux. Prediction and one-process training also run on macOS and Windows: functions
without an equivalent there document their closest replacement. `make check` runs the type checker for all three
systems.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import multiprocessing.connection
import os
import select
import shutil
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

SCHEDULER_SIGNALS: tuple[signal.Signals, ...] = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)
)
"""Signals of preemption notices, `docker stop`, Slurm's time limit (--signal=USR1@120) and similar events."""
STOP_SIGNALS = (*SCHEDULER_SIGNALS, signal.SIGINT)
"""These signals, and Ctrl-C."""
RELOAD_SIGNAL: signal.Signals | None = getattr(signal, "SIGHUP", None)
"""The signal that makes servers reload their files; None on Windows. A closing terminal also sends it."""
KILL: signal.Signals = getattr(signal, "SIGKILL", signal.SIGTERM)
"""The signal that a process cannot ignore. On Windows this is SIGTERM."""

_GROUP_FILES = {  # of a control group: its limit, its usage, and the usage by cached files
    "version 1": ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file")),
    "version 2": ("memory.max", "memory.current", ("active_file", "inactive_file")),
}
_BEHIND = 10  # nice value of a thread: about a tenth of the time
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LOCK_BYTE = 1 << 30  # Windows locks byte ranges and blocks reads of them, so this is far behind the content


def num_cores() -> int:
    """Number of cores that this process may run on."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor_vendor() -> str:
    """Vendor id of an x86 CPU, such as "GenuineIntel"; empty if the system does not report it."""
    if sys.platform == "win32":
        return os.environ.get("PROCESSOR_IDENTIFIER", "").rpartition(" ")[2]
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "vendor_id":
                return value.strip()
    return ""


def user_id() -> int | None:
    """Effective user id of this process; None on systems without user ids."""
    return None if sys.platform == "win32" else os.geteuid()


def machine_id() -> str:
    """An id that is unique per machine, boot and container."""
    parts = [socket.gethostname(), str(int(psutil.boot_time()))]
    with contextlib.suppress(OSError):  # preferred on Linux, because the boot time depends on the clock
        parts[1:] = [
            Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
            str(Path("/proc/self/ns/pid").readlink()),
        ]
    return " ".join(parts)


def start_ticks(pid: int) -> int:
    """Start time of a process in ticks since boot; 0 if the system does not report it."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(errors="replace").rsplit(")", 1)[1].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def has_reader(descriptor: int) -> bool:
    """Whether an open file or pipe may still have a reader."""
    if sys.platform == "win32":
        return True
    pipe = select.poll()
    pipe.register(descriptor, 0)  # errors are always reported
    return not pipe.poll(0)


def has_terminal() -> bool:
    """Whether this process has a controlling terminal that still exists."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY))
    except OSError:
        return False
    return True


def free_memory() -> int:
    """Bytes of memory that this process may still allocate: free memory, limited by its control groups."""
    return min([psutil.virtual_memory().available, *free_in_groups()])


def return_freed_memory() -> None:
    """Return freed memory to the system if the C library keeps it (glibc)."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


def free_in_groups(root: str = "/sys/fs/cgroup", groups: str = "/proc/self/cgroup") -> list[int]:
    """The remaining bytes of each control group of this process with a limit; empty except on Linux.

    Containers and batch systems limit memory in this way. Cached files do not count, because the kernel drops them
    first.

    Args:
        root: mount point of the control groups.
        groups: the file that lists those of this process.
    """
    try:
        named = [line.split(":", 2) for line in Path(groups).read_text().splitlines()]
    except OSError:
        return []
    found = []
    for _, controllers, path in named:
        if controllers and "memory" not in controllers.split(","):
            continue
        top = Path(root, "memory") if controllers else Path(root)
        own = top / path.lstrip("/")
        limit, used, cached = _GROUP_FILES["version 1" if controllers else "version 2"]
        for group in (own, *own.parents):
            with contextlib.suppress(OSError, ValueError, KeyError):  # hidden in a container, or "max"
                facts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
                taken = int((group / used).read_text()) - sum(int(facts[name]) for name in cached)
                found.append(max(0, int((group / limit).read_text()) - taken))
            if group == top:
                break
    return found


def open_files_limit() -> int | None:
    """Most open files and sockets of this process; None without a limit."""
    if sys.platform == "win32":
        return None
    import resource  # noqa: PLC0415 - not on Windows

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def allow_open_files(more: int) -> None:
    """Raise this process's limit on open files by `more`, as far as the system allows."""
    soft = open_files_limit()
    if sys.platform == "win32" or soft is None:
        return
    import resource  # noqa: PLC0415 - not on Windows

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = soft + more if hard == resource.RLIM_INFINITY else min(soft + more, hard)
    with contextlib.suppress(ValueError, OSError):  # the real limit of macOS is below the reported one
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def open_lock_file(file: Path) -> int:
    """Open a file to lock, created if needed. Links are not followed if the system supports it.

    Raises:
        OSError: the file is a link, or cannot be opened.
    """
    return os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)


def lock_file(descriptor: int) -> None:
    """Lock an open file for this process, until it is closed.

    Raises:
        BlockingIOError: another process holds the lock.
        OSError: the file system has no locks.
    """
    if sys.platform != "win32":
        import fcntl  # noqa: PLC0415 - not on Windows

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    import msvcrt  # noqa: PLC0415 - only on Windows

    os.lseek(descriptor, _LOCK_BYTE, os.SEEK_SET)
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except PermissionError as error:
        raise BlockingIOError(*error.args) from error
    finally:
        os.lseek(descriptor, 0, os.SEEK_SET)


def call_in_forked_children(function: Callable[[], None]) -> None:
    """Call `function` first in each process that is forked from this one; does nothing without fork."""
    if sys.platform != "win32":
        os.register_at_fork(after_in_child=function)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Block Ctrl-C within this context, and in processes started in it until they call `allow_interrupts`.

    Does nothing on Windows.
    """
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def allow_interrupts() -> None:
    """Unblock Ctrl-C in this process."""
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@contextmanager
def alarm_after(seconds: float, ring: Callable[[], object]) -> Iterator[None]:
    """Call a function in the main thread after `seconds`, unless the body ends before. It may raise an error there.

    An alarm that is set already rings later. Nothing happens on Windows, and outside of the main thread.
    """
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield
        return
    began, handler = time.monotonic(), signal.signal(signal.SIGALRM, lambda *_: ring())
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
        finally:
            signal.signal(signal.SIGALRM, handler)
            if left:
                signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - began), 1e-3), interval)


def set_alarm(seconds: float) -> None:
    """Let the alarm of `alarm_after` ring in `seconds`. Nothing happens on Windows."""
    if sys.platform != "win32":
        signal.setitimer(signal.ITIMER_REAL, seconds)


def send_to_thread(thread: int, number: signal.Signals, seconds: float) -> threading.Timer:
    """Send a signal to a thread of this process after `seconds`, unless the timer is cancelled.

    On Windows, it goes to the process, whose main thread handles it.
    """

    def send() -> None:
        if sys.platform == "win32":
            signal.raise_signal(number)
        else:
            signal.pthread_kill(thread, number)

    timer = threading.Timer(seconds, send)
    timer.daemon = True
    timer.start()
    return timer


def start_uninterrupted(process: BaseProcess) -> None:
    """Start a `multiprocessing` process with Ctrl-C blocked until it calls `allow_interrupts`."""
    if sys.platform != "win32":
        from multiprocessing import resource_tracker  # noqa: PLC0415 - not on Windows

        resource_tracker.ensure_running()  # otherwise `start` does it and unblocks the signal
    with interrupts_held():
        process.start()


def lower_priority() -> None:
    """Lower the priority of the calling thread and of threads that it starts.

    They keep about a tenth of a CPU under contention. Only Linux has priorities per thread; elsewhere nothing changes.
    """
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _BEHIND)


def end_with_parent() -> None:
    """Kill this process, started by `multiprocessing`, when its parent ends.

    On Linux the kernel kills it at any time; elsewhere a thread does.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "multiprocessing started this process"
    if sys.platform != "linux":
        threading.Thread(target=_die_after, args=(parent.sentinel,), name="cxml-lifetime", daemon=True).start()
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, KILL, 0, 0, 0)
    if os.getppid() != parent.pid:  # the parent ended before the call
        os.kill(os.getpid(), KILL)


def ending_with_parent(number: signal.Signals) -> list[str]:
    """A command prefix whose process gets the signal when its parent ends; empty except on Linux."""
    is_possible = sys.platform == "linux" and shutil.which("setpriv")
    return ["setpriv", "--pdeathsig", number.name.removeprefix("SIG")] if is_possible else []


def _die_after(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os.kill(os.getpid(), KILL)


def absolute_path(path: str) -> str:
    """An absolute local path, with `/` as separator also on Windows, and without a trailing one.

    Raises:
        FileNotFoundError: the path is relative, and the working directory was deleted.
    """
    path = os.path.expanduser(path)  # noqa: PTH111 - a Path would drop a part such as "."
    if sys.platform == "win32":
        return Path(path).absolute().as_posix()
    if not path.startswith("/"):
        path = f"{Path.cwd()}/{path}"
    return path.rstrip("/") or "/"


def others_may_write(facts: os.stat_result) -> bool:
    """Whether any user may change a file or folder; always False on Windows, whose modes do not show it."""
    return sys.platform != "win32" and bool(facts.st_mode & stat.S_IWOTH)


def read_at(descriptor: int, size: int, start: int) -> bytes:
    """Up to `size` bytes of an open file from `start` on."""
    if sys.platform != "win32":
        return os.pread(descriptor, size, start)
    os.lseek(descriptor, start, os.SEEK_SET)
    return os.read(descriptor, size)
