"""The fake accelerator of the benchmarks counts each cost once and computes as the host does.

Oracles: a hand-written table of what each call costs on a GPU, and the same training on the CPU.
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
WAITS, LAUNCH = {"blocking": 1}, {"launches": 1}
FETCHED = {"blocking": 1, "to_host": 1}
COSTS = {
    "item": WAITS,
    "int": WAITS,
    "if": WAITS,
    "tolist": FETCHED,
    "cpu": FETCHED,
    "fetch": {"to_host": 1},
    "nonzero": WAITS | LAUNCH,
    "unique": WAITS | LAUNCH,
    "masked": WAITS | LAUNCH,
    "masked write": WAITS | LAUNCH,
    "masked fill": LAUNCH,
    "repeat": WAITS | {"launches": 3},
    "repeat of known size": {"launches": 3},
    "synchronize": WAITS,
    "event": WAITS,
    "pageable": {"pageable": 1},
    "made of a list": {"pageable": 1},
    "indices of the host": {"pageable": 1} | LAUNCH,
    "pinned": {"pinned": 1},
    "slice of pinned": {"pinned": 1},
    "pinned and waited for": {"pinned": 1} | WAITS,
    "nothing to copy": {},
    "add": LAUNCH,
    "zeros": LAUNCH,
    "views": {},
    "copy on the device": LAUNCH,
    "one number of the host": LAUNCH,
    "fused step": {"launches": 2},
    "sort of pairs": {"numpy": 1},
    "add at pairs": {"numpy": 2},
    "sort of less": {},
    "pairs to torch": {"numpy": 1},
    "elsewhere": {},
    "triton": LAUNCH,
    "stand-in": LAUNCH,
}


@pytest.fixture(scope="module")
def found():
    """What the program counted, in a process of its own: the device stays registered."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "benchmarks")))}
    program = ROOT / "tests" / "support" / "on_fake_accelerator.py"
    done = subprocess.run(
        [sys.executable, program], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", COSTS)
def test_a_call_costs_what_it_would_on_a_card(found, name):
    assert found["calls"][name] == COSTS[name]


def test_no_call_goes_unmentioned(found):
    assert found["calls"].keys() == COSTS.keys()


def test_the_encoder_is_counted_apart_forward_and_backward(found):
    apart = found["apart"]
    assert apart["with encoder"]["launches"] == apart["without encoder"]["launches"] > 0
    # Forward two linear layers, tanh and exp; backward both functions, three products, two sums for the biases, and the
    # sum of the first layer's gradients, from the head and from the second layer.
    assert apart["with encoder"]["encoder"] == 4 + 8
    assert apart["without encoder"]["encoder"] == 0


def test_other_ranks_bring_what_this_one_brings(found):
    numbers = [float(number) for number in range(8)]
    together = found["together"]
    assert together["summed"] == [4 * number for number in numbers]
    assert together["most"] == together["swapped"] == numbers
    assert together["everyone"] == 4 * numbers
    assert together["own"] == [8.0, 12.0]
    assert together["totals"]["launches"] == 5


def test_training_computes_what_it_does_on_the_host(found):
    assert max(found["differences"]) < 1e-5


def test_the_accelerator_is_there_within_its_context_only(found):
    assert found["is_available"] == [True, False]
