"""The training kernel as the compiler makes it for real cards, which the interpreter says nothing about."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]
PROGRAM = """
import dataclasses, json
from compiled_kernels import launches_of
from support.ahead_of_time import compile_launch
_, launch = next(launches_of("train", 768, ["fp32, AdamW"]))
print(json.dumps(dataclasses.asdict(compile_launch(launch, 90))))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Triton compiles on Linux only")
def test_training_rows_of_768_columns_spills_nothing_and_leaves_room_for_other_programs(tmp_path):
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "benchmarks"))),
        "TRITON_CACHE_DIR": str(tmp_path),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    compiled = json.loads(done.stdout.splitlines()[-1])
    assert compiled["spilled"] == 0
    assert compiled["shared"] <= 100 * 1024
    assert compiled["registers"] * 128 * 3 <= 65536  # three programs of 128 threads at a time
    assert compiled["products"] > 0
