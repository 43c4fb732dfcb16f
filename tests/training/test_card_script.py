"""The script for a real card is whole: on the pretended accelerator it runs through, also where packages are missing.

A package is missing here when a finder of modules is made blind to it.
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

ROOT = Path(__file__).parents[2]
BLIND = """
import importlib.machinery

find_spec = importlib.machinery.PathFinder.find_spec


def find(cls, name, path=None, target=None):
    is_hidden = name.split(".")[0] in {"dacite", "tenacity", "tyro", "deepspeed", "ray"}
    return None if is_hidden else find_spec(name, path, target)


importlib.machinery.PathFinder.find_spec = classmethod(find)
"""


def test_every_part_is_measured_without_deepspeed_ray_and_small_packages(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(BLIND)
    environment = os.environ | {"PYTHON": sys.executable, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [ROOT / "benchmarks/gpu/levels.sh", "--rehearse"],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert [line["name"] for line in lines] == [
        f"levels-{part}-{texts}-texts" for part in ("step", "kernels") for texts in (8, 16)
    ]
    assert all(line["figure"] > 0 and line["peer"] > 0 for line in lines)
