"""The memory of a training step that the plan states.

Oracle: the memory of the real step, counted tensor by tensor by `benchmarks/memory.py`.
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
PROGRAM = """
import json, sys, tempfile
from pathlib import Path
from transformers import BertConfig
from memory import CASES, Sizes, measure
found = {}
with tempfile.TemporaryDirectory() as folder:
    BertConfig(num_hidden_layers=6).save_pretrained(folder)
    for case in CASES:
        if case.name in sys.argv[1:]:
            own = measure(case, Sizes(labels=100_000), Path(folder))
            found[case.name] = {"plan": own.plan.bytes_per_rank, "activations": own.plan.activations, "peak": own.peak}
print(json.dumps(found))
"""


CASES = (
    "fp8, SGD",
    "bf16, AdamW, one second moment per row, recomputed",
    "fp32, AdamW, rows 64 wide, shortlists, recomputed",
)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "benchmarks")))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *CASES],
        env=environment, capture_output=True, text=True, check=False, timeout=600,
        cwd=tmp_path_factory.mktemp("memory"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", CASES)
def test_the_plan_says_what_a_step_takes_with_activations_kept_and_recomputed(found, name):
    sizes = found[name]
    assert sizes["plan"] == pytest.approx(sizes["peak"], rel=0.05)


def test_kept_activations_are_a_large_part_of_a_small_head_s_step(found):
    """Else the plan could leave them out and still agree."""
    assert found["fp8, SGD"]["activations"] > 0.5 * found["fp8, SGD"]["peak"]
