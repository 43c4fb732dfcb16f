"""One module knows the operating system, and one the names that differ between versions of PyTorch.

Oracles: a search of the package's source by pattern, and threads with real priorities.
"""

import os
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PureWindowsPath

import pytest

from cxml.operating_system import absolute_path, lower_priority

PACKAGE = Path(__file__).parents[1] / "cxml"
_MODULES = "fcntl|grp|msvcrt|posix|pty|pwd|resource|syslog|termios|tty|winreg"
_OS = (
    r"\w*fork\w*|sched_\w+|p(read|write)v?|posix_\w+|get[eu]+id|getgroups|set\w+id|fchmod|l?chown|killpg|mkfifo|mknod|nice"
    r"|umask|uname|wait\w*|sync|fdatasync|statvfs|sysconf|getloadavg|memfd_create|O_(NOFOLLOW|DIRECTORY|CLOEXEC)|name"
)
_SIGNALS = r"SIG(KILL|USR\d|HUP|CHLD|QUIT|CONT|STOP|ALRM|PIPE)|alarm|setitimer|pthread_\w+"
ONLY_LINUX = re.compile(
    rf"\b(import|from)\b[^#\"']*\b({_MODULES})\b|\bos\.({_OS})\b|\bsignal\.({_SIGNALS})\b"
    r"|from os import (?!PathLike$)|from signal import|resource_tracker|select\.e?poll|sys\.platform|platform\.system"
    r"|[\"'](/(proc|dev|sys|tmp|etc)\b|e?poll[\"']|fork)|prctl|start_new_session|preexec_fn|AF_UNIX|add_signal_handler"
)
RENAMED = re.compile(r"torch\.accelerator\b|from torch import.*\baccelerator\b|reduce_scatter_(single|tensor)")
EXEMPT = {ONLY_LINUX: "operating_system.py", RENAMED: "accelerators.py"}


@pytest.mark.parametrize("line", [
    "import os, fcntl", "from fcntl import flock", "import resource", "from os import fork", "pid = os.fork()",
    "os.sched_getaffinity(0)", "os.mkfifo(path)", "os.setsid()", "signal.SIGHUP", 'Path("/proc/self")', "os.name",
    'get_context("fork")', "Popen(words, start_new_session=True)", "socket.AF_UNIX",
])  # fmt: skip
def test_the_pattern_finds_code_that_only_linux_runs(line):
    assert ONLY_LINUX.search(line)


@pytest.mark.parametrize("pattern", EXEMPT, ids=EXEMPT.values())
def test_code_that_differs_between_systems_is_in_one_module(pattern):
    found = {
        f"{file.relative_to(PACKAGE)}:{number}: {line.strip()}"
        for file in PACKAGE.rglob("*.py")
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if pattern.search(line)
    }
    own = {place for place in found if place.startswith(EXEMPT[pattern])}
    assert own, "the pattern finds what it looks for"
    assert found == own


class _WindowsPath(PureWindowsPath):
    def absolute(self):
        return self if self.is_absolute() else _WindowsPath("C:\\work") / self


@pytest.mark.parametrize(("path", "expected"), [
    ("D:\\models\\run", "D:/models/run"), ("D:/models/run/", "D:/models/run"), ("runs\\x", "C:/work/runs/x"),
    ("runs/x", "C:/work/runs/x"), ("\\\\server\\share\\run", "//server/share/run"),
])  # fmt: skip
def test_a_path_of_windows_is_made_absolute_with_its_drive(monkeypatch, path, expected):
    monkeypatch.setattr("cxml.operating_system.sys.platform", "win32")
    monkeypatch.setattr("cxml.operating_system.Path", _WindowsPath)
    assert absolute_path(path) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="a thread has a priority of its own on Linux only")
def test_a_thread_works_behind_others_with_the_threads_that_it_starts_and_no_other():
    def priority():
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    before = priority()
    with ThreadPoolExecutor(1, initializer=lower_priority) as behind:
        assert behind.submit(priority).result() > before
        with behind.submit(ThreadPoolExecutor, 1).result() as started:
            inherited = behind.submit(lambda: started.submit(priority).result()).result()
    assert inherited > before
    assert priority() == before
