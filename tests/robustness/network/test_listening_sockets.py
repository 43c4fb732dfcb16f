"""Every command listens on loopback only, whatever it starts, and unpickles nothing that strangers send.

Oracle: the sockets that the operating system lists while the real commands run.
"""

import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
import yaml
from support.launching import ROOT, wait_until
from support.object_store import free_ports
from support.ray import one_at_a_time
from support.runs import make_encoder, small_config
from support.served import is_ready
from support.sockets import watched
from torch.distributed import DistError, TCPStore

from cxml.config import config_to_dict

TEXTS = "chronic anaemia\nsickle-cell disease with crisis\nhaemophilia\n"
# A host with several interfaces has these set; a command that stays on this machine must not listen there.
ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("RAY_")},
    "OMP_NUM_THREADS": "1",
    "GLOO_SOCKET_IFNAME": "eth0",
    "MASTER_ADDR": "0.0.0.0",
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A config file, and the folder of everything. The first test trains its run."""
    folder = tmp_path_factory.mktemp("sockets")
    config = small_config(folder / "out", make_encoder(folder / "encoder"), train={"epochs": 1, "num_workers": 2})
    (folder / "config.yaml").write_text(yaml.safe_dump(config_to_dict(config)))
    (folder / "texts.txt").write_text(TEXTS)
    (folder / "space.yaml").write_text("optim.classifier_lr: {choice: [1.0e-3]}\n")
    return folder


def watch(folder: Path, *words: str, on_port=id):
    """Run a command to its end and look what it listens on; the log is in the folder."""
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *words], cwd=ROOT, env=ENVIRONMENT, stdout=log, stderr=subprocess.STDOUT
        )
        with watched(process.pid, on_port) as seen:
            code = process.wait()
    assert code == 0, (folder / "log.txt").read_text()[-3000:]
    assert seen.samples > 10
    return seen


def train(folder, on_port=id):
    return watch(folder, "cxml.train", "--config", str(folder / "config.yaml"), on_port=on_port)


def takes_keys(port):
    """Whether a port lets a stranger set a key of torch's store, where a rendezvous of torch unpickles its state."""
    try:
        store = TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=1))
        store.set("torch.rendezvous.run", pickle.dumps("state"))
    except (DistError, RuntimeError):
        return False
    return True


def test_a_store_of_torch_would_be_noticed():
    (port,) = free_ports(1)
    store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    assert takes_keys(port)
    assert pickle.loads(store.get("torch.rendezvous.run")) == "state"


def test_training_in_two_processes_listens_on_loopback_only_and_takes_no_keys_of_a_rendezvous(base):
    with ThreadPoolExecutor() as pool:
        attacks = []
        seen = train(base, on_port=lambda port: attacks.append(pool.submit(takes_keys, port)))
    assert attacks
    assert not any(attack.result() for attack in attacks)
    assert seen.strangers == set()
    assert seen.addresses == {"127.0.0.1"}, "gloo's sockets were not seen"
    assert sum("spawn_main" in words for words in seen.processes.values()) >= 4, "two workers train and two evaluate"


def test_evaluation_in_two_processes_listens_on_loopback_only(base):
    train(base)
    seen = watch(base, "cxml.evaluate", "--config", str(base / "config.yaml"), "--rows", "bf16")
    assert seen.strangers == set()
    assert seen.addresses == {"127.0.0.1"}


def test_prediction_in_two_processes_listens_on_loopback_only(base, tmp_path):
    train(base)
    output = str(tmp_path / "predictions")
    words = [str(base / "out"), str(base / "texts.txt"), "--output", output, "--processes", "2"]
    seen = watch(base, "cxml.predict", *words)
    assert seen.strangers == set()
    assert seen.addresses == {"127.0.0.1"}
    assert json.loads((tmp_path / "predictions" / "manifest.json").read_text())["texts"] == 3


def assert_guarded_and_quiet_ray(seen):
    """Ray was there, asks for a token, and sends no usage statistics."""
    servers = [seen.environments[pid] for pid, words in seen.processes.items() if "/gcs_server " in words]
    assert servers, "Ray was not seen"
    for variables in servers:
        assert variables["RAY_AUTH_MODE"] == "token"
        assert variables["RAY_USAGE_STATS_ENABLED"] == "0"


def test_preparation_tree_and_prediction_on_a_ray_of_their_own_listen_on_loopback_only(base, tmp_path):
    train(base)
    output = str(tmp_path / "out")
    with one_at_a_time():
        seen = watch(
            base, "cxml.train", "--config", str(base / "config.yaml"), "--output", output,
            "--data.engine", "ray", "--tree.engine", "ray",
        )  # fmt: skip
    assert seen.strangers == set()
    assert_guarded_and_quiet_ray(seen)


def test_a_search_listens_on_loopback_only(base):
    with one_at_a_time():
        seen = watch(
            base, "cxml.tune", "--config", str(base / "config.yaml"), "--space", str(base / "space.yaml"),
            "--trials", "1", "--metric", "P@1", "--held-out", "0.2", "--cpus-per-trial", "1",
        )  # fmt: skip
    assert any("-m cxml.train" in words for words in seen.processes.values())
    assert seen.strangers == set()
    assert_guarded_and_quiet_ray(seen)


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_a_server_listens_on_loopback_only(base, engine):
    train(base)
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "cxml.serve", str(base / "out"), "--port", str(port), "--engine", engine]
    with one_at_a_time(), (base / "log.txt").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=log, stderr=log)
        try:
            with watched(process.pid) as seen:
                wait_until(lambda: is_ready(port) or process.poll() is not None, "the server does not come up")
                answer = httpx.post(f"http://127.0.0.1:{port}/predict", json={"texts": ["anaemia"]}, timeout=60)
                process.terminate()
                assert process.wait(120) == 0, (base / "log.txt").read_text()[-3000:]
        finally:
            process.kill()
    assert answer.status_code == 200
    assert seen.strangers == set()
    if engine == "ray":
        assert_guarded_and_quiet_ray(seen)
    else:
        assert seen.addresses == {"127.0.0.1"}
        assert len(seen.processes) == 1
