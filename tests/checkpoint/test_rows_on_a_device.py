"""A save copies each label row from the accelerator once and nothing back; the next step copies no more than others.

Oracle: the bytes that the fake accelerator of `benchmarks/support` counts, against the sizes of the tensors.
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


@pytest.fixture(scope="module", params=["three levels", "bf16", "rows in host memory"])
def found(request):
    """Counts of a process of its own, since the fake device stays registered."""
    places = (ROOT, ROOT / "benchmarks")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, places))}
    program = ROOT / "tests" / "support" / "save_from_device.py"
    done = subprocess.run(
        [sys.executable, str(program), request.param],
        env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    counted = json.loads(done.stdout.splitlines()[-1])
    assert counted["device"] == ("cpu" if request.param == "rows in host memory" else "fake")
    return counted


@pytest.mark.parametrize("way", ["copy", "blocks"])
def test_a_save_copies_every_row_from_the_device_once_and_none_back(found, way):
    counts = found["ways"][way]
    assert counts["moved"] == {"to_host": counts["pieces"]}
    assert counts["of rows"] == (found["rows"] if found["device"] == "fake" else 0)
    assert counts["blocks"] > 5 or found["device"] == "cpu"


@pytest.mark.parametrize("way", ["copy", "blocks"])
def test_the_step_after_a_save_copies_no_more_than_any_other(found, way):
    counts = found["ways"][way]
    assert counts["stayed"]
    assert counts["next step"] == found["usual step"]


@pytest.mark.parametrize("way", ["copy", "blocks"])
def test_a_checkpoint_is_loaded_into_the_device_block_by_block(found, way):
    loaded = found["ways"][way]["loaded"]
    assert loaded["equal"]
    assert loaded["device"] == found["device"]
    assert "to_host" not in loaded["moved"]


def test_an_export_copies_weights_and_biases_only(found):
    exported = found["exported"]
    assert exported["moved"] == ({"to_host": exported["bytes"]} if found["device"] == "fake" else {})
