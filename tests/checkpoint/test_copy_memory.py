"""A save copies the state only where every machine has memory for all of its ranks; otherwise it writes in blocks.

Oracles: a sum over machines for the decision, files of control groups written by hand, and the process's measured peak
memory.
"""

import multiprocessing
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from cxml.checkpoint import Saver, ShardReader, Snapshot, list_checkpoints
from cxml.checkpoint.manifest import RunState
from cxml.checkpoint.pieces import Pieces
from cxml.checkpoint.saver import CopyMemory, find_copy_memory, least_copy_memory
from cxml.config import CheckpointConfig
from cxml.operating_system import free_in_groups
from cxml.parallel import Ranks, distributed, run_workers

GIB = 1 << 30
RANK = st.tuples(st.sampled_from("abc"), st.integers(0, 100), st.integers(0, 100))


@given(st.lists(RANK, min_size=1, max_size=8))
def test_there_is_room_if_and_only_if_every_machine_has_room_for_all_of_its_ranks(ranks):
    machines = {name for name, _, _ in ranks}
    expected = all(
        sum(needed for name, needed, _ in ranks if name == one)
        <= 0.8 * min(free for name, _, free in ranks if name == one)
        for one in machines
    )
    assert least_copy_memory(ranks).is_enough == expected


def group_files(folder, limit, used, active=0, inactive=0, *, version=2):
    names = {2: ("memory.max", "memory.current", ""), 1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")}
    limit_file, used_file, prefix = names[version]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / limit_file).write_text(f"{limit}\n")
    (folder / used_file).write_text(f"{used}\n")
    stat = f"anon 5\n{prefix}inactive_file {inactive}\n{prefix}active_file {active}\n"
    (folder / "memory.stat").write_text(stat)


def named(folder, text):
    (folder / "groups").write_text(text)
    return free_in_groups(str(folder / "root"), str(folder / "groups"))


def test_each_limited_group_above_a_process_bounds_its_memory(tmp_path):
    root = tmp_path / "root"
    group_files(root / "a/b", 100, 90, active=10, inactive=20)
    group_files(root / "a", 50, 45)
    group_files(root, "max", 10)
    assert named(tmp_path, "0::/a/b\n") == [40, 5]


def test_a_container_that_shows_only_its_own_group_is_bounded_by_that(tmp_path):
    group_files(tmp_path / "root", 100, 30)
    assert named(tmp_path, "0::/kubepods/pod1/container\n") == [70]


def test_groups_of_version_1_bound_memory_too(tmp_path):
    group_files(tmp_path / "root/memory/job", 100, 90, inactive=30, version=1)
    assert named(tmp_path, "9:cpu,cpuacct:/job\n5:memory:/job\n") == [40]


def test_without_groups_nothing_is_bounded(tmp_path):
    assert free_in_groups(str(tmp_path), str(tmp_path / "none")) == []


def snapshot(tensor, step=1):
    run = RunState(
        step=step, world_size=1, config={}, encoder={}, tree="", loader={}, optimizer_step=step, num_labels=1, width=1,
        label_head="rows",
    )  # fmt: skip
    return Snapshot(run, {f"labels/{dist.get_rank()}": Pieces.whole(tensor)})


def agree(folder):
    """Two ranks of one machine, the second of which sees little free memory."""
    with distributed(threads=1) as ranks:
        free = (10 * GIB, 999)[ranks.rank]
        saver = Saver(folder, CheckpointConfig(keep_last=9), ranks, free_memory=lambda: free)
        group = dist.new_group(backend="gloo")
        room = find_copy_memory(600, free, group)
        tensor = torch.full((100,), float(ranks.rank))
        saver.start(snapshot(tensor))
        was_busy = saver.is_busy
        tensor.fill_(-1)
        saver.close()
        found = [None, None]
        dist.all_gather_object(found, (room, was_busy))
        return found


def test_one_rank_without_memory_makes_them_all_write_while_training_waits(tmp_path):
    found = run_workers(agree, (str(tmp_path),), 2)
    assert found == [(CopyMemory(1200, 999), False)] * 2
    reader = ShardReader(list_checkpoints(str(tmp_path))[0].url)
    assert [reader.tensor(f"labels/{rank}").unique().tolist() for rank in (0, 1)] == [[0.0], [1.0]]


@pytest.mark.parametrize("free", [0, 1 << 40])
def test_what_training_changes_after_a_save_has_begun_is_not_saved(tmp_path, free):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    alone = Ranks(0, 1, 0, torch.device("cpu"))
    saver = Saver(str(tmp_path), CheckpointConfig(), alone, free_memory=lambda: free)
    try:
        tensor = torch.arange(1_000_000.0)
        saver.start(snapshot(tensor))
        tensor.fill_(-1)
        saver.wait()
    finally:
        saver.close()
        dist.destroy_process_group()
    found = ShardReader(list_checkpoints(str(tmp_path))[0].url).tensor("labels/0")
    assert torch.equal(found, torch.arange(1_000_000.0))


def peak_of_a_save(folder, free, queue):
    """How far this process's memory grows while it saves 256 MiB of rows in files of 4 MiB."""
    from cxml.checkpoint import pieces, row_state, shards
    from cxml.checkpoint.row_arrays import SavedLevel
    from cxml.config import HeadConfig, OptimConfig
    from cxml.parallel import Exchange, RowLayout, make_level

    row_state.PIECE_BYTES = pieces.PIECE_BYTES = 1 << 20
    shards._FILE_BYTES = 4 << 20
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    level = make_level(
        RowLayout.round_robin(torch.arange(0, 87_001, 50).numpy(), 0, 1), 256, Exchange(is_alone=True), HeadConfig(),
        OptimConfig(),
    )  # fmt: skip
    for tensor in vars(level.rows).values():
        tensor.add_(0)  # memory counts once it is written to
    run = snapshot(torch.zeros(1)).run
    saver = Saver(folder, CheckpointConfig(), Ranks(0, 1, 0, torch.device("cpu")), free_memory=lambda: free)
    saver.start(snapshot(torch.zeros(1)))  # what every save needs, such as its thread
    saver.wait()
    before = psutil.Process().memory_info().rss
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
    saver.start(Snapshot(run, row_state.rows_to_save(level, SavedLevel.labels(87_000, 256))))
    saver.wait()
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) << 10
    saver.close()
    queue.put((level.rows.num_bytes, peak - before))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux counts the peak of memory anew")
def test_memory_grows_by_a_copy_where_there_is_room_and_by_a_few_blocks_where_there_is_none(tmp_path):
    context, grown = multiprocessing.get_context("spawn"), {}
    for way, free in (("copy", 1 << 40), ("none", 0)):
        queue = context.Queue()
        worker = context.Process(target=peak_of_a_save, args=(str(tmp_path / way), free, queue))
        worker.start()
        rows, grown[way] = queue.get(timeout=120)
        worker.join()
    assert rows > 256 << 20
    assert grown["copy"] > 0.95 * rows
    assert grown["none"] < rows / 4
