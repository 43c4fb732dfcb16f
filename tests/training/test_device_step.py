"""What a step costs an accelerator and its host: no waits, no copies, few launches."""

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
import json, sys
from cxml import extras
from device_step import counts_of
is_installed, hidden, *names = extras.is_installed, *sys.argv[1:]
extras.is_installed = lambda name: name != hidden and is_installed(name)
found = counts_of(*names)
print(json.dumps({name: counts.totals() | {"where": counts.launches} for name, counts in found.items()}))
"""
MOST_LAUNCHES = {  # outside the encoder; four levels and more are there to see that a level adds few
    "three levels": 75,
    "all labels": 100,
    "four levels": 90,
    "clusters shared out": 90,
    "two micro-batches": 135,
    "clipped": 80,
    "rows clipped": 85,
    "four ranks, two copies": 140,
    "four ranks, bf16": 210,  # two micro-batches
}
PREDICTED = {"three levels, predicted": 45, "all labels, predicted": 70, "four levels, predicted": 55}


@pytest.fixture(scope="module")
def found():
    return count("nothing", *MOST_LAUNCHES)


def count(hidden, *cases):
    """What the benchmark counts without a package, in a process of its own: the pretended device stays registered."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "benchmarks")))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, hidden, *cases],
        env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("case", MOST_LAUNCHES)
def test_a_training_step_waits_for_nothing_and_launches_little(found, case):
    counts = found[case]
    assert [counts[kind] for kind in ("blocking", "to_host", "pageable", "numpy")] == [0] * 4
    assert counts["launches"] <= MOST_LAUNCHES[case], counts["where"]


@pytest.mark.parametrize("case", PREDICTED)
def test_a_prediction_copies_its_results_once(found, case):
    counts = found[case]
    assert [counts[kind] for kind in ("blocking", "to_host", "pageable", "numpy")] == [1, 1, 0, 0]
    assert counts["launches"] <= PREDICTED[case], counts["where"]


def test_no_case_goes_unmentioned(found):
    assert found.keys() == MOST_LAUNCHES.keys() | PREDICTED.keys()


def test_an_accelerator_without_triton_trains_and_predicts_too():
    """The rows are then in host memory."""
    for counts in count("triton", "three levels").values():
        assert counts["launches"] > 100
        assert not [place for place in counts["where"] if "cxml." in place]
