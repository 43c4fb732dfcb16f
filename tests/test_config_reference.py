"""The config page of the docs: generated, complete, up to date."""

import dataclasses
import runpy
import typing
from pathlib import Path

from cxml.config import Config

DOCS = Path(__file__).parents[1] / "docs"


def field_names(section, prefix=""):
    hints = typing.get_type_hints(section)
    for field in dataclasses.fields(section):
        name = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(hints[field.name]):
            yield from field_names(hints[field.name], f"{name}.")
        else:
            yield name


def test_the_page_is_what_the_generator_writes():
    page = runpy.run_path(str(DOCS / "generate_config_reference.py"))["page"]()
    assert (DOCS / "reference" / "config.md").read_text() == page, "run: python docs/generate_config_reference.py"


def test_every_field_has_a_row_with_a_meaning():
    text = (DOCS / "reference" / "config.md").read_text()
    rows = {line.split("`")[1]: line.rstrip("| ") for line in text.splitlines() if line.startswith("| `")}
    assert set(rows) == set(field_names(Config))
    for name, row in rows.items():
        meaning = row.replace("\\|", "").split("|")[-1].strip()
        assert meaning.endswith("."), f"{name} is not explained: {row}"
