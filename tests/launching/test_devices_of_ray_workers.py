"""Ray workers get the devices of the cluster, also where the process that starts them has no GPU.

Ray is told that this machine has two GPUs, which no process here can see, as on a head node that has none. Oracles:
Ray's own account of reserved resources, and the plan's bytes for another number of processes.
"""

import contextlib
import dataclasses
import os
import threading

import pytest
from support.ray import own_ray
from support.runs import make_encoder, small_config

from cxml import pipeline, ray_cluster
from cxml.batch_prediction import PredictionJob, predict_file
from cxml.formats import TextSource
from cxml.launching import processes_per_machine
from cxml.launching.on_ray import run_on_ray
from cxml.pipeline.plan import plan_run

GPU, CPU = {"CPU": 1.0, "GPU": 1.0}, {"CPU": 1.0}


@pytest.fixture(scope="module", autouse=True)
def cluster():
    with own_ray(num_cpus=4, num_gpus=2):
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    return small_config(folder / "out", make_encoder(folder / "encoder"), train={"epochs": 1, "num_workers": 4})


@pytest.mark.parametrize(("device", "workers", "expected"), [
    ("auto", 0, GPU), ("gpu", 0, GPU), ("cpu", 0, CPU),
    ("auto", 2, GPU), ("auto", 3, {"CPU": 1.0, "GPU": 0.5}), ("auto", 5, {"CPU": 1.0, "GPU": 1 / 3}),
])  # fmt: skip
def test_workers_get_gpus_where_the_cluster_has_them_and_share_them_where_they_are_few(device, workers, expected):
    assert ray_cluster.worker_resources(device, workers=workers) == expected


def test_trainings_on_cpus_of_such_a_cluster_use_no_gpu(config):
    def place_of_worker():  # here, so that it travels to the workers, who cannot import this module
        import ray
        import torch.distributed as dist

        from cxml.parallel import distributed

        with distributed() as ranks:
            return ray.get_gpu_ids(), dist.get_backend(), os.environ.get("CUDA_VISIBLE_DEVICES"), str(ranks.device)

    launch = dataclasses.replace(config.launch, device="cpu")
    found = run_on_ray(place_of_worker, (), 2, config=dataclasses.replace(config, launch=launch))
    assert found == ([], "gloo", "", "cpu")


def test_a_plan_counts_the_processes_that_one_node_has_room_for(config):
    def on_ray(device, cpus=1.0):
        launch = dataclasses.replace(config.launch, launcher="ray", device=device, cpus_per_worker=cpus)
        return dataclasses.replace(config, launch=launch, head=dataclasses.replace(config.head, group_size="node"))

    assert processes_per_machine(on_ray("auto")) == 2, "one per GPU"
    assert processes_per_machine(on_ray("cpu")) == 4
    assert processes_per_machine(on_ray("cpu", cpus=3.0)) == 1
    all_of_them, half, quarter = (
        plan_run(one)[0].label_rows for one in (on_ray("cpu"), on_ray("auto"), on_ray("cpu", cpus=3.0))
    )
    assert (half, quarter) == (pytest.approx(2 * all_of_them, abs=2), pytest.approx(4 * all_of_them, abs=4))


def test_actors_that_predict_reserve_a_gpu_each(config, tmp_path):
    pipeline.run(dataclasses.replace(
        config, train=dataclasses.replace(config.train, num_workers=1),
        launch=dataclasses.replace(config.launch, launcher="local"),
    ))  # fmt: skip
    (tmp_path / "texts.txt").write_text("anaemia\nhaemophilia\nleukopenia\n")
    for device, fewest_free in (("cpu", 2.0), ("auto", 0.0)):
        job = PredictionJob(
            model=config.output, source=TextSource(url=str(tmp_path / "texts.txt")), output=str(tmp_path / device),
            part_rows=1,
        )  # fmt: skip
        with free_gpus() as seen:
            assert predict_file(job, on_ray=True, ray_device=device) == 3
        assert min(seen) == fewest_free
    parts = [[file.read_bytes() for file in sorted((tmp_path / device).glob("part-*"))] for device in ("cpu", "auto")]
    assert len(parts[0]) == 3
    assert parts[0] == parts[1]


@contextlib.contextmanager
def free_gpus():
    """How many GPUs of the cluster are not reserved, at different moments."""
    import ray

    seen, done = set(), threading.Event()

    def look():
        while True:
            seen.add(ray.available_resources().get("GPU", 0.0))
            if done.wait(0.05):
                return

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()
