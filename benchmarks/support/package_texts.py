"""Two small data sets from the files of installed Python packages, as tables that `data.source.kind: table` reads.

- `summaries`: short texts. The first sentence of a function's docstring in NumPy, SciPy and NetworkX, labelled with
  the names of its parameters.
- `operations`: longer texts. The documentation of an operation of an AWS service, from botocore, labelled with its
  service and the errors that it can raise. Every fifth operation is used.

Texts and labels depend on the installed versions of the packages. Labels of a single text are left out.
"""

from __future__ import annotations

import ast
import csv
import gzip
import html
import importlib.util
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

Row = tuple[str, list[str]]

_DOCUMENTED = ("numpy", "scipy", "networkx")
_MOST_CHARACTERS = 2000  # of an operation's documentation
_EVERY = 5
_TAG = re.compile(r"<[^>]+>")


def write_table(name: str, file: Path) -> None:
    """Write the data set called `name` as a CSV with the columns text and labels; labels are separated by `;`."""
    rows = list(dict(_SETS[name]()).items())
    frequency = Counter(label for _, labels in rows for label in labels)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["text", "labels"])
        for text, labels in rows:
            if kept := [label for label in labels if frequency[label] > 1]:
                writer.writerow([text, ";".join(kept)])


def _summaries() -> Iterator[Row]:
    for package in _DOCUMENTED:
        for file in sorted(_folder(package).rglob("*.py")):
            if "test" not in file.as_posix():
                yield from _functions(ast.parse(file.read_text(encoding="utf-8")))


def _functions(module: ast.Module) -> Iterator[Row]:
    """First sentence and parameters of every documented public function and method."""
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and (doc := ast.get_docstring(node)):
            summary = " ".join(doc.partition("\n\n")[0].split())
            names = [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            labels = [name for name in names if name not in ("self", "cls")]
            if labels and summary:
                yield summary, labels


def _operations() -> Iterator[Row]:
    found = [
        row for file in sorted(_folder("botocore").glob("data/*/*/service-2.json.gz")) for row in _of_service(file)
    ]
    yield from found[::_EVERY]


def _of_service(file: Path) -> Iterator[Row]:
    """Documentation, service and errors of every operation of a service."""
    with gzip.open(file) as content:
        service = json.load(content)
    name = service["metadata"].get("serviceId", file.parts[-3])
    for operation in service["operations"].values():
        text = " ".join(html.unescape(_TAG.sub(" ", operation.get("documentation", ""))).split())[:_MOST_CHARACTERS]
        if text:
            yield text, sorted({name, *(error["shape"] for error in operation.get("errors", ()))})


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{package} is not installed: pip install {package}")
    return Path(spec.submodule_search_locations[0])


_SETS = {"summaries": _summaries, "operations": _operations}
SETS = tuple(_SETS)
