"""Preparation on real Ray workers gives the bytes of one process, also when a worker or the driver is killed.

Oracle: the same preparation in one process.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from support.ray import own_ray

from cxml.config import config_from_dict, config_to_dict
from cxml.data import data_url
from cxml.errors import DataError
from cxml.preparation import is_prepared, prepare

COPIES = 120  # of the 240 real train texts: work for a few seconds, time enough to be killed


@pytest.fixture(scope="module")
def raw_folder(tmp_path_factory, wordnet_slice):
    """The slice of WordNet again and again, each text under a number of its own."""
    import numpy as np
    from scipy import sparse

    folder = tmp_path_factory.mktemp("raw")
    for split, suffix in (("train", "trn"), ("test", "tst")):
        lines = (wordnet_slice / f"{split}_raw_texts.txt").read_text().splitlines()
        texts = "".join(f"{line} number {copy}\n" for copy in range(COPIES) for line in lines)
        (folder / f"{split}_raw_texts.txt").write_text(texts)
        labels = sparse.load_npz(wordnet_slice / f"Y.{suffix}.npz")
        sparse.save_npz(folder / f"Y.{suffix}.npz", sparse.csr_matrix(sparse.vstack([labels] * COPIES), dtype=np.int8))
    return folder


@pytest.fixture(scope="module")
def make(tmp_path_factory, raw_folder):
    def make_config(**data):
        output = str(tmp_path_factory.mktemp("run"))
        section = {"source": {"path": str(raw_folder)}, "max_length": 32, "shard_rows": 400, **data}
        return config_from_dict({"auto": [], "output": output, "data": section})

    return make_config


@pytest.fixture(scope="module")
def expected(make):
    """What one process makes."""
    return content_of(prepare(make(engine="local")))


@pytest.fixture(scope="module")
def ray_cluster():
    """A Ray of this test's own, of two CPUs; its address."""
    with own_ray() as address:
        yield address


def content_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def workers(of: psutil.Process):
    """Ray's actors that work on blocks, among the descendants of a process."""
    found = []
    for process in of.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if process.name().startswith("ray::_Actor") or "ray::_Actor" in " ".join(process.cmdline()):
                found.append(process)
    return found


def notes(url):
    return list(Path(url).glob(".progress/train/shard-*.json"))


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_two_workers_one_of_them_killed_make_what_one_process_makes(ray_cluster, make, expected):
    config = make(engine="ray", num_workers=2)
    url = data_url(config)
    killed = []

    def kill_a_worker_once_shards_appear():
        wait_for(lambda: notes(url) and workers(psutil.Process()))
        victim = workers(psutil.Process())[0]
        victim.send_signal(signal.SIGKILL)
        (Path(url) / "train/.shard-00071.arrow.k1ll3d").write_bytes(b"ARROW1")  # it may die in the midst of a file
        killed.append((victim.pid, (Path(url) / "manifest.json").exists()))

    killer = threading.Thread(target=kill_a_worker_once_shards_appear)
    killer.start()
    prepare(config)
    killer.join()
    ((pid, was_finished),) = killed
    assert not was_finished
    assert not psutil.pid_exists(pid)
    assert content_of(url) == expected


def test_a_killed_driver_is_followed_by_a_run_that_makes_the_missing_shards(ray_cluster, make, expected):
    config = make(engine="ray", num_workers=1)
    url = data_url(config)
    script = (
        "from cxml.config import config_from_dict\nfrom cxml.preparation import prepare\n"
        f"prepare(config_from_dict({config_to_dict(config)!r}))\n"
    )
    environment = {**os.environ, "RAY_ADDRESS": ray_cluster}
    driver = subprocess.Popen([sys.executable, "-c", script], env=environment, stderr=subprocess.PIPE)
    wait_for(lambda: notes(url) or driver.poll() is not None)
    driver.kill()
    driver.communicate()
    assert driver.returncode == -signal.SIGKILL
    wait_for(lambda: not workers(psutil.Process()))  # Ray ends the actors of a driver that is gone
    assert not is_prepared(config)

    kept = {p: p.stat().st_mtime_ns for p in (Path(url) / "train" / note.stem for note in notes(url))}
    assert 0 < len(kept) < 72
    prepare(config)
    assert content_of(url) == expected
    assert {p: p.stat().st_mtime_ns for p in kept} == kept


def test_broken_data_is_refused_by_the_driver_in_cxmls_own_words(ray_cluster, make, raw_folder, tmp_path):
    for file in raw_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    texts = tmp_path / "train_raw_texts.txt"
    lines = texts.read_bytes().split(b"\n")
    lines[9_000] = b"\xff"
    texts.write_bytes(b"\n".join(lines))
    with pytest.raises(DataError, match=r"train_raw_texts\.txt, line 9001: not valid UTF-8"):
        prepare(make(engine="ray", num_workers=1, source={"path": str(tmp_path)}))
