"""The package description that PyPI shows without any other file of the project.

Oracle: the metadata of a real build, against README.md.
"""

import re
import shutil
import subprocess
import sys
from email import message_from_bytes
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(!?)\[[^\]]*\]\(([^)]+)\)")


def described(folder, *, urls=""):
    """The description that a build writes into the metadata."""
    (folder / "cxml").mkdir(parents=True)
    for name in ("setup.py", "README.md", "LICENSE", "cxml/__init__.py"):
        shutil.copy(ROOT / name, folder / name)
    text = (ROOT / "pyproject.toml").read_text()
    (folder / "pyproject.toml").write_text(text.replace("\n[project.scripts]", f"\n{urls}\n[project.scripts]"))
    subprocess.run([sys.executable, "setup.py", "-q", "egg_info"], cwd=folder, check=True, capture_output=True)
    return message_from_bytes((folder / "cxml.egg-info" / "PKG-INFO").read_bytes()).get_payload()


def test_a_description_of_a_project_with_an_address_has_whole_addresses_only(tmp_path):
    found = LINK.findall(described(tmp_path / "project", urls='[project.urls]\nSource = "https://code.example/cxml"'))
    assert ("!", "https://code.example/cxml/raw/HEAD/docs/images/system.svg") in found
    assert ("", "https://code.example/cxml/blob/HEAD/docs/how-to/serve.md") in found
    assert all(target.startswith(("https://", "#")) for _, target in found)
    assert len(found) == len(LINK.findall((ROOT / "README.md").read_text()))


def test_without_an_address_pictures_are_left_out(tmp_path):
    text, readme = described(tmp_path / "project"), (ROOT / "README.md").read_text()
    assert "![" in readme
    assert text.split() == re.sub(r"!\[[^\]]*\]\([^)]*\)", "", readme).split(), "and nothing else"


def test_every_file_that_the_readme_leads_to_is_there():
    targets = {target.split("#")[0] for _, target in LINK.findall((ROOT / "README.md").read_text())}
    files = {target for target in targets if target and not target.startswith("https://")}
    assert {"docs/images/system.svg", "docs/images/quality.svg", "docs/images/serve.png"} <= files
    assert not [name for name in files if not (ROOT / name).is_file()]
