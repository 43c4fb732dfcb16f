"""The engine that a command line selects, what the local engine imports, and what replicas reserve on a cluster.

Oracles: `sys.modules` of a new process, and Ray's own account of reserved resources.
"""

import subprocess
import sys

import pytest
from support.launching import wait_until
from support.ray import own_ray

from cxml.accelerators import accelerator_type
from cxml.commands.serve import ServeCommand, _is_on_ray, main
from cxml.errors import ConfigError, WorkerError
from cxml.serving import ServeOptions
from cxml.serving.local_engine import LocalEngine
from cxml.serving.models import ModelSpec


@pytest.mark.parametrize(("address", "options", "expected"), [
    ("", {}, False), ("", {"replicas": 2}, True), ("10.0.0.1:6379", {}, True), ("", {"engine": "ray"}, True),
    ("10.0.0.1:6379", {"engine": "local"}, False),
])  # fmt: skip
def test_ray_serves_where_the_command_line_or_the_environment_asks_for_it(monkeypatch, address, options, expected):
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert _is_on_ray(ServeCommand(model="a model", **options)) is expected


@pytest.mark.parametrize(("words", "reason"), [
    (["--engine", "local", "--replicas", "2"], "one process"), (["--replicas", "0"], "at least 1"),
    (["--cpus", "0"], "above 0"), (["--cpus", "nan"], "above 0"),
])  # fmt: skip
def test_a_command_line_that_no_engine_can_meet_is_refused(words, reason, capsys):
    assert main(["a model", *words]) == 2
    assert reason in capsys.readouterr().err


@pytest.mark.skipif(accelerator_type() is not None, reason="this machine has one")
def test_a_gpu_that_is_not_there_is_refused(output):
    with pytest.raises(ConfigError, match="--device = 'gpu'"):
        LocalEngine(ModelSpec(output, None, False), ServeOptions(), device="gpu").load()


def test_the_local_engine_imports_neither_ray_nor_deepspeed_nor_what_only_training_needs(output):
    program = """
import sys
from cxml.serving import ServeOptions, http_server, running
from cxml.serving.local_engine import LocalEngine
from cxml.serving.local_engine import LocalEngine
from cxml.serving.models import ModelSpec
model = LocalEngine(ModelSpec(sys.argv[1], None, False), ServeOptions(), cpus=1).load()
assert model.is_answering(60)
model.close()
print(sorted({"ray", "deepspeed", "pandas", "sklearn", "matplotlib", "tensorboard"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, output], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_replicas_reserve_their_share_of_a_gpu_and_a_reload_for_which_none_is_left_is_refused(output):
    import ray

    from cxml.serving.ray_engine import ray_engine

    with own_ray(num_cpus=4, num_gpus=1):  # a GPU that no process can see: the replicas compute on CPUs
        with ray_engine(ModelSpec(output, None, False), ServeOptions(), num_replicas=2) as engine:
            model = engine.load()
            assert model.is_answering(60)
            free = ray.available_resources
            wait_until(lambda: free().get("GPU", 0.0) == 0.0 and free()["CPU"] == 2.0, "the GPU is not reserved")
            with pytest.raises(WorkerError, match=r"has 0 GPU free.* need 1\."):
                engine.load()
            assert model.is_answering(60)
        wait_until(lambda: ray.available_resources().get("GPU") == 1.0, "the replicas are left")
