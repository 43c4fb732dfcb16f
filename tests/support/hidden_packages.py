"""Runs commands in processes that cannot import some packages."""

import importlib
import importlib.machinery
import json
import os
import subprocess
import sys
import traceback
from pathlib import Path

from cxml.extras import EXTRAS

HIDEABLE = sorted({module for modules in EXTRAS.values() for module in modules})
_hidden = set(HIDEABLE)
_LOADED_ONCE = (
    "cxml.pipeline", "cxml.pipeline.dry_run", "cxml.comparison", "cxml.transfer", "cxml.batch_prediction",
    "cxml.prediction.similarity", "cxml.inspection.dataset_statistics", "cxml.inspection.checks",
    "cxml.preparation.tree_import", "cxml.inspection.tree_statistics",
)  # fmt: skip


def run_commands(cases: list[tuple[list[str], str, list[str]]], folder: Path) -> list[tuple[int, str]]:
    """Run commands, each without some packages.

    Args:
        cases: for each command the missing packages, its module and its arguments.
        folder: the working directory of the commands, which also takes their output.

    Returns:
        Exit code and output of each command.
    """
    (folder / "cases.json").write_text(json.dumps(cases))
    command = [sys.executable, "-m", "support.hidden_packages", "cases.json"]
    path = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": path}, timeout=300, check=False, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    codes = json.loads((folder / "codes.json").read_text())
    return [(code, (folder / f"{number}.txt").read_text()) for number, code in enumerate(codes)]


def main() -> None:
    """Import once what every command imports, without optional packages. Then fork a process for each case."""
    find = importlib.machinery.PathFinder.find_spec

    def find_unless_hidden(name, path=None, target=None):
        return None if name.partition(".")[0] in _hidden else find(name, path, target)

    importlib.machinery.PathFinder.find_spec = find_unless_hidden  # type: ignore[method-assign]
    for module in _LOADED_ONCE:
        importlib.import_module(module)

    codes = []
    for number, (missing, module, arguments) in enumerate(json.loads(Path(sys.argv[1]).read_text())):
        child = os.fork()
        if not child:
            _run(Path(f"{number}.txt"), missing, module, arguments)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    Path("codes.json").write_text(json.dumps(codes))


def _run(log: Path, missing: list[str], module: str, arguments: list[str]) -> None:
    file = os.open(log, os.O_CREAT | os.O_WRONLY)
    os.dup2(file, 1)
    os.dup2(file, 2)
    _hidden.intersection_update(missing)
    code = 1
    try:
        code = importlib.import_module(module).main(arguments)
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
