"""Any mutation of a folder leads to the same result or to an error of cxml: no crash, no hang, no memory blow-up.

Oracle: the result of the folder before the mutation, each use in a process with bounds.
"""

import collections
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.mutations import copy_and_mutate

CASES = {"data": 90, "tree": 60, "checkpoint": 60, "model": 60, "export": 90}


@pytest.fixture(scope="module")
def use():
    """Uses a folder in a process of its own, and says how that ended."""
    script = Path(__file__).parents[2] / "support" / "folder_uses.py"
    environment = {**os.environ, "NUMBA_THREADING_LAYER": "workqueue", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:

        def ask(kind: str, folder: Path) -> tuple[str, str]:
            process.stdin.write(json.dumps([kind, str(folder)]) + "\n")
            process.stdin.flush()
            return tuple(json.loads(process.stdout.readline()))

        yield ask
        process.stdin.close()


@pytest.mark.parametrize("kind", CASES)
def test_a_mutated_folder_gives_the_same_result_or_one_of_our_errors(kind, folders, use, tmp_path, record_property):
    """A checkpoint and a model are mutated inside a run, beside sound data and a sound tree."""
    draw = random.Random(f"mutations of {kind}")
    run = tmp_path / "run"
    if kind in ("checkpoint", "model"):
        for part in ("data", "tree"):
            shutil.copytree(folders[part], run / part)
    place = run / {"checkpoint": f"checkpoints/{folders[kind].name}", "model": "model"}.get(kind, kind)
    shutil.copytree(folders[kind], place)
    expected = use(kind, place)
    assert expected[0] == "result", expected
    endings = collections.Counter()
    for number in range(CASES[kind]):
        shutil.rmtree(place)
        told, fits = copy_and_mutate(folders[kind], place, draw)
        outcome, details = use(kind, place)
        # With fitting checksums another sound folder may have been made, with a result of its own.
        is_fine = outcome == "refused" or (outcome == "result" and (fits or details == expected[1]))
        assert is_fine, f"case {number} of {kind}, {told}{', fitting' if fits else ''}: {outcome} {details}"
        endings[outcome] += 1
    record_property("endings", dict(endings))
    assert endings["refused"] > CASES[kind] / 3
