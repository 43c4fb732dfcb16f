"""The scripts for a real GPU run through on the fake accelerator, also without optional packages.

A package counts as missing when the finder of modules does not see it. Oracle: the figures that the scripts must print.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

pytest.importorskip("triton")
if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
    pytest.skip("this PyTorch knows no devices written in Python", allow_module_level=True)

SCRIPTS = Path(__file__).parents[2] / "benchmarks" / "gpu"
BLIND = """
import importlib.machinery

find_spec = importlib.machinery.PathFinder.find_spec


def find(cls, name, path=None, target=None):
    is_hidden = name.split(".")[0] in {"dacite", "tenacity", "tyro", "deepspeed", "ray"}
    return None if is_hidden else find_spec(name, path, target)


importlib.machinery.PathFinder.find_spec = classmethod(find)
"""
# An interpreter for which the card is there, and of whose stages one never ends and one fails.
FIGURE = '{"card": "C", "what": "rest", "figure": 1, "unit": "s", "beside": {}}'
INTERPRETER = f"""#!/usr/bin/env bash
case "$*" in
    -c*) exit 0 ;;
    */whole.py\\ checkpoint*) sleep 1000 ;;
    */whole.py\\ compile*) exit 7 ;;
    */whole.py*) echo '{FIGURE}' | sed "s/rest/$2/" >> "$4" ;;
    *) exec "$REAL_PYTHON" "$@" ;;
esac
"""


def run(tmp_path, script, *arguments):
    (tmp_path / "sitecustomize.py").write_text(BLIND)
    environment = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [SCRIPTS / script, "--rehearse", *arguments],
        env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_part_is_measured_without_deepspeed_ray_and_small_packages(tmp_path):
    lines = [json.loads(line) for line in run(tmp_path, "levels.sh").splitlines() if line.startswith("{")]
    assert [line["name"] for line in lines] == [
        f"levels-{part}-{texts}-texts" for part in ("step", "kernels") for texts in (8, 16)
    ]
    assert all(line["figure"] > 0 and line["peer"] > 0 for line in lines)


def test_every_stage_of_a_whole_training_is_measured_without_deepspeed_ray_and_small_packages(tmp_path):
    printed = run(tmp_path, "whole.sh", tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "whole.jsonl").read_text().splitlines()]
    figures = {line["what"]: line for line in lines}
    rows = ("fp8, SGD", "bf16, SGD", "bf16, AdamW, one second moment per row", "fp32, AdamW")
    for case in (f"{own}{ending}" for own in rows for ending in (", recomputed", "")):
        memory = figures.pop(f"{case}: peak memory")
        assert memory["figure"] is None  # the fake accelerator does not count memory
        assert memory["beside"]["plan"] > 0
        assert figures[f"{case}: an epoch of 1,717,899 texts would take"]["beside"]["texts/s"] > 0
    for case in rows[1:3]:
        saved = figures[f"{case}: checkpoint in the background"]
        assert 0 < saved["beside"]["training stands still, s"] <= saved["figure"]
        assert figures[f"{case}: checkpoint loaded"]["beside"]["host grows by, GiB"] >= 0
    assert figures["train.compile: a step"]["beside"]["as it is"] > 0
    (evaluated,) = (own for what, own in figures.items() if what.startswith("evaluation with shortlists"))
    assert evaluated["beside"]["its encoder alone"] > 0
    assert all(own["figure"] > 0 for own in figures.values())
    assert all(f"| {what} | " in printed for what in figures)


def test_a_stage_that_hangs_or_fails_leaves_the_others_their_time_and_their_figures(tmp_path):
    interpreter, script = tmp_path / "python", tmp_path / "whole.sh"
    interpreter.write_text(INTERPRETER)
    interpreter.chmod(0o755)
    text = (SCRIPTS / "whole.sh").read_text()
    assert "checkpoint:110" in text
    script.write_text(text.replace("checkpoint:110", "checkpoint:1").replace('$(dirname "$0")', str(SCRIPTS)))
    environment = os.environ | {"PYTHON": str(interpreter), "REAL_PYTHON": sys.executable}
    done = subprocess.run(
        ["bash", script, tmp_path], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "checkpoint: exit status 124" in done.stderr
    assert "compile: exit status 7" in done.stderr
    assert [line.split(" | ")[0] for line in done.stdout.splitlines()[2:]] == ["| rows", "| evaluation"]
