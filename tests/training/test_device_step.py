"""A training step makes an accelerator's host wait for nothing, copies little, and launches few kernels.

Oracle: the counts of the fake accelerator of `benchmarks/support`, against limits and against the plan.
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
import json, sys
from cxml import extras
import dataclasses
from pathlib import Path
from cxml.pipeline.plan import planned_launches
from device_step import CASES, LABELS, config_of, counts_of
is_installed, hidden, *names = extras.is_installed, *sys.argv[1:]
extras.is_installed = lambda name: name != hidden and is_installed(name)
found = counts_of(*names)
planned = {}
for case in CASES:
    config = config_of(case, Path("unread"))
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, num_workers=case.ranks))
    planned[case.name] = planned_launches(config, LABELS, case.head.get("group_size") or case.ranks)
rows = {name: counts.totals() | {"where": counts.launches} for name, counts in found.items()}
print(json.dumps({name: row | {"planned": planned.get(name)} for name, row in rows.items()}))
"""
MOST_LAUNCHES = {  # outside the encoder; four levels and more are there to see that a level adds few
    "three levels": 75,
    "all labels": 100,
    "four levels": 90,
    "clusters shared out": 90,
    "two micro-batches": 120,
    "clipped": 80,
    "rows clipped": 85,
    "bf16": 80,
    "bottleneck": 75,
    "windows": 75,
    "bottleneck, all levels sharded": 110,
    "four ranks": 105,
    "four ranks, two replicas": 120,
    "all labels, two replicas": 120,
    "four ranks, bf16": 210,  # two micro-batches
}
UNPLANNED = {"rows clipped", "four ranks, two replicas", "all labels, two replicas"}
COPIED = "batches copied ahead"
PREDICTED = {
    "three levels, predicted": 45,
    "all labels, predicted": 70,
    "four levels, predicted": 55,
    "bottleneck, predicted": 45,
    "windows, predicted": 45,
}


@pytest.fixture(scope="module")
def found():
    return count("nothing", *MOST_LAUNCHES)


def count(hidden, *cases):
    """Counts of the benchmark without a package, in a process of its own, since the fake device stays registered."""
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


def test_the_batches_of_a_step_are_copied_from_pinned_memory_and_nobody_waits(found):
    counts = found[COPIED]
    assert [counts[kind] for kind in ("blocking", "to_host", "pageable", "launches", "pinned")] == [0, 0, 0, 0, 4]


def test_a_step_itself_copies_no_batch(found):
    assert found["three levels"]["pinned"] == 0


@pytest.mark.parametrize("case", sorted(MOST_LAUNCHES.keys() - UNPLANNED))
def test_the_plan_of_a_step_has_the_launches_that_are_counted(found, case):
    planned = found[case]["planned"]
    assert sum(planned.values()) == found[case]["launches"], (planned, found[case]["where"])


@pytest.mark.parametrize("case", sorted(UNPLANNED))
def test_the_plan_leaves_out_launches_that_it_does_not_know(found, case):
    assert found[case]["planned"] is None


def test_no_case_goes_unmentioned(found):
    assert found.keys() == MOST_LAUNCHES.keys() | PREDICTED.keys() | {COPIED}


def test_an_accelerator_without_triton_trains_and_predicts_too():
    """The rows are then in host memory."""
    found = count("triton", "three levels")
    for counts in (found["three levels"], found["three levels, predicted"]):
        assert counts["launches"] > 100
        assert not [place for place in counts["where"] if "cxml." in place]
