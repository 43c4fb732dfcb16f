"""The documentation: its examples run, and the generated pages are complete and up to date.

Oracles: the generators, the config classes, and pyproject.toml.
"""

import dataclasses
import re
import runpy
import typing
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.pyproject import project

from cxml.config import Config, config_from_dict
from cxml.extras import EXTRAS
from cxml.formats import read_source

DOCS = Path(__file__).parents[1] / "docs"


def code_blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)


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


def test_the_config_in_the_how_to_reads_the_data_that_it_writes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (script,) = code_blocks("how-to/own-data.md", "python")
    Path("write.py").write_text(script)
    runpy.run_path("write.py")
    (config,) = code_blocks("how-to/own-data.md", "yaml")
    raw = read_source(config_from_dict(yaml.safe_load(config)).data.source)
    assert raw.label_names == ["shirts", "shoes", "sports"]
    assert raw.splits["train"].texts == ["red running shoes", "leather boots"]
    assert raw.splits["train"].labels.toarray().tolist() == [[0, 1, 1], [0, 1, 0]]
    assert raw.splits["test"].labels.toarray().tolist() == [[1, 0, 1]]


def test_yaml_and_python_in_the_pages_is_well_formed():
    pages = [DOCS.parent / "README.md", *DOCS.rglob("*.md")]
    for page in pages:
        for config in code_blocks(page, "yaml"):
            assert isinstance(yaml.safe_load(config), dict), f"{page}: {config}"
        for script in code_blocks(page, "python"):
            compile(script, str(page), "exec")


def test_every_package_that_an_extra_brings_has_a_licence_on_the_page():
    rows = re.findall(r"^\| ([\w.-]+) \| (.+) \| .+ \|$", (DOCS / "reference" / "licences.md").read_text(), re.M)
    licences = dict(rows)
    facts = project()
    needed = [*facts["dependencies"], *(line for extra in EXTRAS for line in facts["optional-dependencies"][extra])]
    names = {canonicalize_name(Requirement(line).name) for line in needed} - {"cxml"}
    assert names <= set(licences), "run: python docs/generate_licences.py"
    assert "not stated" not in licences.values()
