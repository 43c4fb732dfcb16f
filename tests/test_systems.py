"""Only one module knows the operating system, and only one the names that differ between versions of torch."""

import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "cxml"
ONLY_LINUX = re.compile(
    r"\bimport (resource|fcntl|pwd|grp|termios)\b|os\.(\w*fork\w*|sched_\w+|p(read|write)|get[eu]+id|fchmod|killpg)\b"
    r"|signal\.(SIGKILL|SIGUSR\d|pthread_\w+)|resource_tracker|select\.poll|O_NOFOLLOW|[\"']/(proc|dev|sys)\b|sys\.platform|prctl"
)
RENAMED = re.compile(r"torch\.accelerator\b|reduce_scatter_(single|tensor)")
EXEMPT = {ONLY_LINUX: "operating_system.py", RENAMED: "accelerators.py"}


@pytest.mark.parametrize("pattern", EXEMPT, ids=EXEMPT.values())
def test_what_differs_is_in_one_module(pattern):
    found = {
        f"{file.relative_to(PACKAGE)}:{number}: {line.strip()}"
        for file in PACKAGE.rglob("*.py")
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if pattern.search(line)
    }
    own = {place for place in found if place.startswith(EXEMPT[pattern])}
    assert own, "the pattern finds what it looks for"
    assert found == own
