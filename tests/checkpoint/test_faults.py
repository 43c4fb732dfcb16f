"""Saves on failing stores and full disks: retries, reports, no incomplete checkpoint, no credential in a log.

The object store is a real S3 server behind a proxy that fails requests; the full disk is a real tmpfs. Oracle: every
byte of each listed checkpoint is read back.
"""

import json
import logging
import signal
import time

import pytest
import torch
import torch.distributed as dist
from support.checkpoints import Ranks, checkpointed, read_whole, wait_for_step
from support.disks import small_disk
from support.object_store import BUCKET, KEY, SECRET, failing_proxy
from support.runs import make_encoder, prepare_with_tree, small_config

from cxml import storage
from cxml.checkpoint import Saver, Snapshot, checkpoints_url, list_checkpoints, sweep
from cxml.checkpoint.manifest import RunState
from cxml.checkpoint.pieces import Pieces
from cxml.config import CheckpointConfig
from cxml.errors import StorageError
from cxml.parallel import Ranks as Place

ALONE = Place(0, 1, 0, torch.device("cpu"))


def snapshot(step, num_files=1):
    """A few files of 100 kB."""
    run = RunState(
        step=step, world_size=1, config={}, encoder={}, tree="", loader={}, optimizer_step=step, num_labels=1, width=1,
        label_head="rows",
    )  # fmt: skip
    generator = torch.Generator().manual_seed(step)
    kinds = ("model", "optimizer", "labels", "run")[:num_files]
    return Snapshot(run, {f"{kind}/a": Pieces.whole(torch.randn(25_000, generator=generator)) for kind in kinds})


@pytest.fixture
def alone():
    """A process group of one, in this process."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture
def make_saver(alone, caplog):
    caplog.set_level(logging.INFO, "cxml")
    savers = []

    def make(url):
        savers.append(Saver(str(url), CheckpointConfig(keep_last=2), ALONE))
        return savers[-1]

    yield make
    for saver in savers:
        saver.close()


def save(saver, step, **settings):
    saver.start(snapshot(step, **settings))
    while saver.is_busy:
        time.sleep(0.01)
    saver.report()


def steps(url):
    return [read_whole(entry.url) for entry in list_checkpoints(str(url))]


def test_a_full_disk_is_told_training_goes_on_and_the_next_save_succeeds(make_saver, tmp_path, caplog):
    with small_disk(tmp_path / "small", "640k") as folder:
        url = folder / "checkpoints"
        saver = make_saver(url)
        save(saver, 1)
        (folder / "blocker").write_bytes(b"x" * 400_000)
        save(saver, 2, num_files=3)
        assert "Could not save this checkpoint; training continues" in caplog.text
        assert "No space left" in caplog.text
        assert "Free disk space" in caplog.text
        assert steps(url) == [1]
        assert sweep(str(url)) == []  # what it had written was deleted, for room
        (folder / "blocker").unlink()
        save(saver, 3, num_files=2)
        assert steps(url) == [3, 1]


@pytest.mark.parametrize(("way", "share"), [("refuse", 1 / 3), ("drop", 1 / 3), ("stall", 1 / 8)])
def test_a_store_that_fails_many_requests_gets_and_gives_every_byte(make_saver, store, use_store, patient, way, share):
    url = f"s3://{BUCKET}/{way}"
    with failing_proxy(store, share, way) as (port, failures):
        use_store(port)
        saver = make_saver(url)
        for step in (1, 2, 3):
            save(saver, step, num_files=4)
        assert steps(url) == [3, 2]
    assert failures.failed > 5
    use_store(store)
    assert steps(url) == [3, 2]
    assert sweep(url) == []


def test_a_store_that_is_gone_is_told_training_goes_on_and_nothing_half_is_visible(
    make_saver, store, use_store, monkeypatch, caplog
):
    monkeypatch.setattr("cxml.storage.opening._ATTEMPTS", 2)
    url = f"s3://{BUCKET}/gone"
    use_store(store)
    saver = make_saver(url)
    save(saver, 1)
    with failing_proxy(store, 1.0) as (port, _):
        use_store(port)
        save(saver, 2)
        assert f"s3://{BUCKET}/gone/step-00000002" in caplog.text
        assert "training continues" in caplog.text
        saver.start(snapshot(3))
        with pytest.raises(StorageError, match="credentials"):
            saver.wait()
    use_store(store)
    assert steps(url) == [1]
    save(saver, 4)
    assert steps(url) == [4, 1]
    assert SECRET not in caplog.text


def test_of_two_commits_to_one_place_in_a_store_one_wins(store, use_store):
    use_store(store)
    url = f"s3://{BUCKET}/race/commit.json"
    storage.create(url, b"first")
    with pytest.raises(FileExistsError):
        storage.create(url, b"second")
    storage.create(url, b"first")  # an answer that was lost, tried again
    assert storage.read_bytes(url) == b"first"


def test_files_that_a_store_could_not_delete_are_deleted_again(store, use_store, patient):
    use_store(store)
    url = f"s3://{BUCKET}/kept"
    for name in ("a", "b/c", "b/d"):
        storage.create(f"{url}/{name}", b"content")
    with failing_proxy(store, 0.9, "keep") as (port, failures):
        use_store(port)
        storage.remove(url)
    assert failures.failed
    use_store(store)
    assert not any(storage.file_sizes(url).values())


def test_no_file_is_so_large_that_it_would_be_uploaded_in_parts():
    from cxml.checkpoint import pieces, shards

    in_one_request = 100 << 20  # s3fs, from 2 x 50 MiB on; an upload in parts that is killed stays, unseen and paid for
    assert in_one_request > shards._FILE_BYTES + pieces.PIECE_BYTES


def credentials(port):
    """What a new process needs to reach the store."""
    return {
        "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip


def test_a_run_on_a_store_that_is_killed_within_an_epoch_keeps_the_records_of_its_steps(store, use_store, tmp_path):
    use_store(store)
    url = f"s3://{BUCKET}/output"
    base = small_config(tmp_path, make_encoder(tmp_path / "encoder"), train={"epochs": 1, "batch_size": 4})
    prepare_with_tree(base)
    config = checkpointed(base, url, checkpoint={"every_minutes": 0.0, "every_steps": 3})
    first = Ranks(config, 1, tmp_path / "first", environment=credentials(store))
    assert wait_for_step(first, checkpoints_url(config), 6), first.log()
    first.kill([0])
    assert first.wait() == [-signal.SIGKILL]
    second = Ranks(config, 1, tmp_path / "second", environment=credentials(store))
    assert second.wait() == [0], second.log()
    assert "Resuming from" in second.log()
    lines = storage.read_bytes(f"{url}/metrics.jsonl").splitlines()
    steps = [record["step"] for record in map(json.loads, lines) if record["kind"] == "train"]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) > 6


def test_a_training_on_a_store_stops_goes_on_and_never_tells_its_credentials(
    store, use_store, tmp_path, tmp_path_factory
):
    use_store(store)
    url = f"s3://{BUCKET}/training"
    base = small_config(tmp_path, make_encoder(tmp_path / "encoder"), train={"epochs": 2, "batch_size": 64})
    prepare_with_tree(base)
    parts = {"every_minutes": 0.0, "every_steps": 3, "url": url}
    config = checkpointed(base, tmp_path / "out", checkpoint=parts)
    environment = credentials(store)
    first = Ranks(config, 1, tmp_path / "first", environment=environment)
    while first.are_running() and not (tmp_path / "out" / "metrics.jsonl").exists():
        time.sleep(0.05)
    first.processes[0].send_signal(signal.SIGTERM)
    assert first.wait() == [75], first.log()
    storage.write_atomic(f"{url}/step-00000099-00000000/model-00000-00000.safetensors", b"half")
    second = Ranks(config, 1, tmp_path / "second", environment=environment)
    assert second.wait() == [0], second.log()
    assert f"Resuming from {url}/step-" in second.log()
    assert "Deleted the folder of an interrupted save" in second.log()
    assert all(read_whole(entry.url) == entry.step for entry in list_checkpoints(url))
    told = [first.log(), second.log()]
    told += [file.read_text(errors="ignore") for file in (tmp_path / "out").rglob("*") if file.is_file()]
    told += [storage.read_bytes(f"{url}/{name}").decode(errors="ignore") for name in storage.file_sizes(url)]
    assert len(told) > 10
    assert not [text for text in told if SECRET in text]
