"""The command `cxml` lists and starts all other commands and imports nothing heavy for its help.

Oracles: the modules that define `main`, and `sys.modules` of a new process.
"""

import ast
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from support.pyproject import project

import cxml
from cxml.__main__ import COMMANDS, DATA_COMMANDS, main

ROOT = Path(cxml.__file__).parent
HEAVY = ("torch", "ray", "transformers", "numpy", "scipy", "pyarrow", "numba", "deepspeed", "tyro")


def test_every_module_with_a_command_is_listed():
    listed = {module for module, _ in (*COMMANDS.values(), *DATA_COMMANDS.values())}
    found = set()
    for file in ROOT.rglob("*.py"):
        functions = {node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)}
        if "main" in functions and file.stem != "__main__":
            found.add(".".join(file.relative_to(ROOT.parent).with_suffix("").parts))
    assert listed - found == set()
    assert {module for module in found - listed if module.startswith("cxml.commands")} == set()


def test_every_command_runs_as_a_module_too():
    names = {module: f"cxml.{name}" for name, (module, _) in COMMANDS.items()}
    names |= {module: module.replace("commands.data", "data_tools") for module, _ in DATA_COMMANDS.values()}
    for module, name in names.items():
        found = importlib.util.find_spec(name)
        assert found is not None
        same_main = importlib.import_module(name).main is importlib.import_module(module).main
        assert same_main or found.origin == importlib.import_module(module).__file__


@pytest.mark.parametrize("module", ["cxml.similar", "cxml.data_tools.split", "data_tools.split"])
def test_a_module_run_by_python_is_the_command(module):
    command = [sys.executable, "-m", module, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT.parent)
    called = f"python -m cxml.{module.removeprefix('cxml.')}"
    assert f"usage: {called} " in " ".join(done.stdout.split())


def test_help_teaches_every_command_in_a_line_and_an_example(capsys):
    for words, commands in ((["--help"], COMMANDS), ([], COMMANDS), (["data"], DATA_COMMANDS)):
        assert main(words) == 0
        lines = capsys.readouterr().out.splitlines()
        for name, (_, summary) in commands.items():
            assert any(line.split() == [name, *summary.split()] for line in lines)
        assert max(map(len, lines)) <= 110
        assert any(line.startswith("  cxml ") for line in lines)


def test_help_and_version_import_nothing_heavy():
    code = (
        "import sys; from cxml.__main__ import main; main(['--help']); main(['data', '-h']); main(['--version']);"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *_, version, loaded = done.stdout.splitlines()
    assert version == f"cxml {cxml.__version__}"
    assert loaded == "[]"


@pytest.mark.parametrize(
    ("words", "hint"),
    [(["trian"], "Did you mean train?"), (["data", "splt"], "Did you mean split?"), (["zzz"], "See cxml --help.")],
)
def test_a_command_that_there_is_not_is_refused_with_a_hint(capsys, words, hint):
    assert main(words) == 2
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize(("name", "words"), [("train", ["train"]), ("data split", ["data", "split"])])
def test_help_of_a_command_names_it_as_it_was_called(capsys, name, words):
    with pytest.raises(SystemExit) as end:
        main([*words, "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    assert f"usage: cxml {name}" in " ".join(shown.split())
    assert "python -m cxml.data_tools.split runs" not in shown


def test_a_command_gets_its_arguments_and_its_exit_code_is_that_of_cxml(capsys, tmp_path):
    assert main(["data", "validate", str(tmp_path)]) == 2
    assert "the prepared data set does not exist" in capsys.readouterr().err


def test_the_console_script_is_this_command():
    module, _, function = project()["scripts"]["cxml"].partition(":")
    assert getattr(importlib.import_module(module), function) is main
