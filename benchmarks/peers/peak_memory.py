"""The peak memory of a peer's process."""

from pathlib import Path


def peak_bytes() -> int:
    """Peak memory of this program in bytes, since its start or since a write to `/proc/self/clear_refs` reset it.

    `ru_maxrss` can be too high, because it includes the memory of the process that started the program.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
