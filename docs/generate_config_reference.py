"""Write docs/reference/config.md from the dataclasses of cxml/config/ and the docstrings below their fields.

python docs/generate_config_reference.py           write the page
python docs/generate_config_reference.py --check   exit with 1 if the page is out of date
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import sys
import typing
from collections.abc import Iterator
from pathlib import Path

from cxml.config import Config

PAGE = Path(__file__).parent / "reference" / "config.md"

_HEAD = """# Configuration

A config is a YAML file with the fields below. The name of a field gives its place: `train.epochs` is `epochs:` under
`train:`. Each field is also a command-line option that overrides the file, such as `--train.epochs 5`. Before any stage
starts, cxml refuses unknown fields, invalid values, repeated keys and YAML aliases. Numbers are plain decimals: `010`,
`1:30`, `1_000`, `yes` and `.inf` are not accepted. `--print-config` prints all settings.

A field that the config leaves out has the default. If the default is "chosen", the run chooses the value from the data,
the encoder and the machine ([rules](../decisions/0028-settings-from-the-data.md)), also if the config gives the value
`auto`. `--dry-run` shows the choices with their reasons. With `auto: []`, a field that is left out has the value after
"else".

[The cascade](../concepts/cascade.md) explains levels, taps and shortlists, and
[Sharded levels](../concepts/sharded-levels.md) explains label rows and replicas.

This page is written by `docs/generate_config_reference.py` from `cxml/config/`.
"""


def page() -> str:
    """The whole page as Markdown."""
    sections = "\n".join(_sections(Config, ""))
    return f"{_HEAD}\n{sections}"


def _sections(section: type, prefix: str) -> Iterator[str]:
    """A table for each dataclass, then those of the dataclasses that it holds."""
    hints = typing.get_type_hints(section)
    fields = dataclasses.fields(section)
    nested = [field for field in fields if dataclasses.is_dataclass(hints[field.name])]
    title = f"`{prefix.rstrip('.')}`" if prefix else "The run"
    docs, types = _field_docs(section), _field_types(section)
    yield f"## {title}\n\n{inspect.cleandoc(section.__doc__ or '')}\n"
    yield "| field | type | default | meaning |\n| --- | --- | --- | --- |"
    for field in fields:
        if field not in nested:
            cells = f"`{prefix}{field.name}`", f"`{types[field.name]}`", _default(field), docs[field.name]
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""
    for field in nested:
        yield from _sections(typing.cast(type, hints[field.name]), f"{prefix}{field.name}.")


def _class_body(section: type) -> list[ast.stmt]:
    (definition,) = ast.parse(inspect.getsource(section)).body
    assert isinstance(definition, ast.ClassDef), "a section is a class"
    return definition.body


def _field_docs(section: type) -> dict[str, str]:
    """The string below each field, on one line; empty where there is none."""
    docs: dict[str, str] = {}
    name = ""
    for node in _class_body(section):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
            docs[name] = ""
        elif name and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            docs[name] = " ".join(inspect.cleandoc(str(node.value.value)).split())
            name = ""
    return docs


def _field_types(section: type) -> dict[str, str]:
    """The annotation of each field as a reader of YAML would put it."""
    words = {"tuple[int, ...]": "list of int", "tuple[float, ...]": "list of float", "tuple[str, ...]": "list of str",
             "tuple[int, ...] | Literal['auto']": "list of int or auto",
             "int | Literal['node']": "int or node"}  # fmt: skip
    types: dict[str, str] = {}
    hints = typing.get_type_hints(section)
    for node in _class_body(section):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            source = ast.unparse(node.annotation)
            hint = hints[node.target.id]
            is_choice = typing.get_origin(hint) is typing.Literal
            choices = " or ".join(map(str, typing.get_args(hint)))
            types[node.target.id] = choices if is_choice else words.get(source, source)
    return types


def _default(field: dataclasses.Field[object]) -> str:
    if field.default is dataclasses.MISSING:
        return "required"
    value = list(field.default) if isinstance(field.default, tuple) else field.default
    shown = "empty" if value in ("", []) else f"`{str(value).lower() if isinstance(value, bool) else value}`"
    return f"chosen; else {shown}" if field.metadata.get("choosable") else shown


def main() -> int:
    """Write the page, or compare it; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if the page is out of date")
    text = page()
    if not parser.parse_args().check:
        PAGE.parent.mkdir(exist_ok=True)
        PAGE.write_text(text)
        return 0
    if PAGE.exists() and PAGE.read_text() == text:
        return 0
    print(f"{PAGE} is out of date: run python {Path(__file__).name} in docs/", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
