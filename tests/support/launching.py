"""Starting one and the same run in many ways."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cxml.storage import read_json
from tests.support.runs import read_losses

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent
STEPS = 20


def launch(command, output, config_file, **environment):
    """Run a launcher to its end; its output on failure."""
    words = [*command, "--config", str(config_file), "--output", str(output)]
    path = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        words, env={**os.environ, **path, **environment}, cwd=ROOT, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def assert_same_run(output, expected):
    _, losses, levels = expected
    found = read_losses(output)
    assert len(found) == len(losses)
    for one, other in zip(found, losses, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    for one, other in zip(read_json(str(output / "report.json"), "")["levels"], levels, strict=True):
        assert one == pytest.approx(other, rel=1e-3)
