"""The training kernels, compiled ahead of time for real GPUs, spill no register and fit on a multiprocessor.

The interpreter, which the other tests use, cannot show this. Oracle: the report of NVIDIA's assembler.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]
PROGRAM = """
import dataclasses, json, sys
from compiled_kernels import launches_of
from support.ahead_of_time import compile_launch
launches = [next(launches_of(name, 768, ["fp32, AdamW"])) for name in sys.argv[1:]]
*_, fp8_rows_and_bf16_features = launches_of("all_rows_loss", 768, ["fp8, SGD"])
for _, launch in (*launches, fp8_rows_and_bf16_features):
    print(json.dumps(launch.options | dataclasses.asdict(compile_launch(launch, 90)) | {"name": launch.name}))
"""
FUSED = """
import dataclasses, json
from support.ahead_of_time import compile_launch
from support.fused_launches import fused_launches
launches = {launch.name: launch for _, launch in fused_launches()}
for name, launch in launches.items():
    for capability in (80, 90):
        print(json.dumps(dataclasses.asdict(compile_launch(launch, capability)) | {"name": name, "card": capability}))
"""
AT_A_TIME = {  # programs on a multiprocessor, whose registers are the limit
    "shortlist_loss": 4,
    "shortlist_update": 4,
    "all_rows_loss": 1,
    "all_rows_update": 2,
}


def compiled(cache, program, *arguments):
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "benchmarks"))),
        "TRITON_CACHE_DIR": str(cache),
    }
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Triton compiles on Linux only")
def test_training_rows_of_768_columns_spills_nothing_and_leaves_room_for_other_programs(tmp_path):
    found = compiled(tmp_path, PROGRAM, *AT_A_TIME)
    assert [kernel["name"] for kernel in found] == [*AT_A_TIME, "all_rows_loss"]
    for kernel in found:
        assert kernel["spilled"] == 0, kernel
        assert kernel["shared"] <= 100 * 1024
        assert kernel["registers"] * 32 * kernel["num_warps"] * AT_A_TIME[kernel["name"]] <= 65536, kernel
        assert kernel["products"] > 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Triton compiles on Linux only")
def test_fused_kernels_spill_nothing(tmp_path):
    found = compiled(tmp_path, FUSED)
    assert len({kernel["name"] for kernel in found}) == 14
    for kernel in found:
        assert kernel["spilled"] == 0, kernel
        assert kernel["registers"] <= 128, kernel
        assert kernel["shared"] <= 100 * 1024
