"""Compares cxml's checkpoints with DeepSpeed's and with torch.save in one process: time, bytes, memory, stalls.

    python benchmarks/checkpoint.py [--quick] [--labels 400000]

The benchmark saves and loads the state of a real training (MiniLM-L6, D = 384, two processes, a tree over the labels)
in each way, each in fresh processes. With cxml the label rows are sharded rows (`rows`). DeepSpeed saves the same
weights as parameters of the engine (`zero3`), with its own save_checkpoint and load_checkpoint. torch.save writes as
many numbers from one process. The benchmark starts its own S3 server, a SeaweedFS on this machine's disk.

The second table is about label rows alone. One process saves them in each of cxml's ways and with the writer of
torch.distributed.checkpoint. The table also shows how far the process's memory grows during the save.

With --quick the second table is left out and DeepSpeed saves from one process, because starting processes takes most of
the time.

The last line is JSON: the share of a minute for which one save stalls training. The limit is 5 %.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import fsspec
import numpy as np
import psutil
import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from support.closing_line import print_closing_line
from support.small_runs import run_here
from torch.distributed.checkpoint import state_dict_saver
from torch.distributed.checkpoint.filesystem import FileSystemWriter

from cxml import storage
from cxml.checkpoint import Progress, Saver, ShardReader, Snapshot, TrainingState, list_checkpoints
from cxml.checkpoint.manifest import RunState
from cxml.checkpoint.pieces import Pieces
from cxml.checkpoint.row_arrays import SavedLevel
from cxml.checkpoint.row_state import rows_to_save
from cxml.config import CheckpointConfig, Config, HeadConfig, OptimConfig, config_from_dict
from cxml.console import set_up_logging
from cxml.data import DataManifest, data_url
from cxml.optim import Schedule
from cxml.parallel import Exchange, Ranks, RowLayout, distributed, make_level, run_workers
from cxml.preparation import prepare
from cxml.training import set_up, train_step
from cxml.tree import LabelTree, tree_url

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from object_store import BUCKET, KEY, SECRET, s3_server  # pyright: ignore[reportMissingImports]

MINUTE, LIMIT = 60.0, 0.05
WAYS = ("cxml, in the background", "cxml, while training waits", "DCP save", "DCP async_save")
ROWS, WIDTH = 1_000_000, 384  # sizes of the second table
TEXTS, BATCH = 640, 32
LABELS_PER_LEAF = 50


def main() -> None:
    """Parse, make data and tree, measure each way, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5,000 labels, on disk only: under 50 s on two cores")
    parser.add_argument("--labels", type=int, default=400_000)
    options = parser.parse_args()
    num_labels = 5_000 if options.quick else options.labels
    peers = run_here if options.quick else run_workers
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        config = make_run(Path(scratch), num_labels)
        disk = f"{scratch}/saved"
        places = {"disk": disk} if options.quick else {"disk": disk, "S3": stack.enter_context(store(Path(scratch)))}
        figures = {}
        for place, url in places.items():
            figures[f"cxml, {place}"] = run_workers(save_with_cxml, (config, f"{url}/cxml"), 2)
            figures[f"torch.save, {place}"] = peers(save_with_torch, (config, f"{url}/torch"), 1)
        name = "DeepSpeed, one process, disk" if options.quick else "DeepSpeed, disk"
        figures[name] = peers(save_with_deepspeed, (config, f"{disk}/deepspeed"), 2)
    report(num_labels, figures)
    worst = max(one["stall"] for way, one in figures.items() if way.startswith("cxml"))
    if not options.quick:
        report_memory({way: in_new_process(way) for way in WAYS})
    print_closing_line("checkpoint stall", worst / MINUTE, "share of a minute", LIMIT, goal=1.0, lower_is_better=True)


@contextmanager
def store(scratch: Path) -> Iterator[str]:
    """Run an S3 server within this context and yield the URL of its bucket."""
    with s3_server(make(scratch / "s3"), gib=32) as port:
        os.environ |= {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1"}
        os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
        yield f"s3://{BUCKET}"


def make(folder: Path) -> Path:
    """Make a new folder."""
    folder.mkdir(parents=True)
    return folder


def make_run(scratch: Path, num_labels: int) -> Config:
    """Prepare random texts with three labels each and a tree over the labels; return the config."""
    rng = np.random.default_rng(0)
    raw = make(scratch / "raw")
    for split, suffix, count in (("train", "trn", TEXTS), ("test", "tst", 8)):
        words = rng.integers(0, 5000, (count, 12))
        (raw / f"{split}_raw_texts.txt").write_text("".join(" ".join(f"w{w}" for w in row) + "\n" for row in words))
        labels = [sorted(set(row)) for row in rng.integers(0, num_labels, (count, 3)).tolist()]
        lines = [" ".join(f"{label}:1" for label in row) for row in labels]
        (raw / f"Y.{suffix}.txt").write_text(f"{count} {num_labels}\n" + "".join(f"{line}\n" for line in lines))
    clusters = num_labels // LABELS_PER_LEAF
    config = config_from_dict(
        {
            "auto": [],
            "output": str(scratch / "run"),
            "data": {"source": {"kind": "xmc", "path": str(raw)}, "max_length": 24},
            "tree": {"level_sizes": [clusters]},
            "train": {"batch_size": BATCH, "num_workers": 2},
        }
    )
    prepare(config)
    assert DataManifest.read(data_url(config)).num_labels == num_labels
    bounds = np.arange(clusters + 1, dtype=np.int64) * num_labels // clusters
    LabelTree(np.arange(num_labels, dtype=np.int32), (bounds,)).save(tree_url(config), {})
    return config


def steps_of(state: TrainingState, schedule: Schedule, batches: Any, count: int) -> list[float]:  # noqa: ANN401
    """Take `count` training steps and return the seconds of each."""
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        schedule.apply(0)
        train_step(state.engine, next(batches), state.ranks)
        seconds.append(time.perf_counter() - began)
    return seconds


def save_with_cxml(config: Config, url: str) -> dict[str, float]:
    """Save while training continues, then load."""
    set_up_logging(is_main=False)
    with distributed() as ranks:
        state, schedule = set_up(config, ranks)
        batches = state.loader.epoch(0)
        steps_of(state, schedule, batches, 2)
        alone = statistics.median(steps_of(state, schedule, batches, 4))
        saver = Saver(url, config.checkpoint, ranks)
        dist.barrier()
        began = time.perf_counter()
        snapshot = state.state_dict(Progress(step=6), {})
        saver.start(snapshot)
        stall = time.perf_counter() - began
        del snapshot
        beside = steps_of(state, schedule, batches, 4)
        saver.wait()
        began = time.perf_counter()
        saver.start(state.state_dict(Progress(step=10), {}))  # a second save, without steps meanwhile
        saver.wait()
        seconds = time.perf_counter() - began
        entry = list_checkpoints(url)[0]
        dist.barrier()
        began = time.perf_counter()
        reader = ShardReader(entry.url)
        state.load_state_dict(reader)
        state.finish(reader)
        dist.barrier()
        return {
            "stall": stall, "save": seconds, "load": time.perf_counter() - began,
            "bytes": sum(storage.file_sizes(entry.url).values()), "slower": statistics.median(beside) / alone,
        }  # fmt: skip


def save_with_deepspeed(config: Config, url: str) -> dict[str, float]:
    """Save and load the same training with its label rows in DeepSpeed's engine."""
    values = {"train": {"zero_stage": 3, "batch_size": BATCH}, "head": {"implementation": "zero3"}}
    source = {"kind": "xmc", "path": config.data.source.path}
    config = config_from_dict(
        {
            "auto": [],
            "output": config.output,
            "data": {"source": source},
            "tree": {"level_sizes": list(config.tree.level_sizes)},
        }
        | values
    )
    set_up_logging(is_main=False)
    with distributed() as ranks:
        state, schedule = set_up(config, ranks)
        steps_of(state, schedule, state.loader.epoch(0), 1)
        dist.barrier()
        began = time.perf_counter()
        cast(Any, state.engine).save_checkpoint(url, tag="one")
        dist.barrier()
        saved = time.perf_counter()
        cast(Any, state.engine).load_checkpoint(url, tag="one")
        dist.barrier()
        return {
            "stall": saved - began, "save": saved - began, "load": time.perf_counter() - saved,
            "bytes": sum(storage.file_sizes(url).values()),
        }  # fmt: skip


def save_with_torch(config: Config, url: str) -> dict[str, float]:
    """Save and load as many numbers as cxml saves, from one process that holds all of them."""
    set_up_logging(is_main=False)
    with distributed() as ranks:
        state, schedule = set_up(config, ranks)
        steps_of(state, schedule, state.loader.epoch(0), 1)
        snapshot = state.state_dict(Progress(step=1), {})
        tensors = {f"{name}@{start}": part for name, p in snapshot.pieces.items() for start, part in p.parts.items()}
        storage.write_atomic(f"{url}/place", b"here")
        began = time.perf_counter()
        with fsspec.open(f"{url}/all.pt", "wb") as file:
            torch.save(tensors, file)  # pyright: ignore[reportArgumentType]  fsspec's files have no types
        saved = time.perf_counter()
        with fsspec.open(f"{url}/all.pt", "rb") as file:
            torch.load(file, weights_only=True)  # pyright: ignore[reportArgumentType]
        return {
            "stall": saved - began, "save": saved - began, "load": time.perf_counter() - saved,
            "bytes": storage.size(f"{url}/all.pt"),
        }  # fmt: skip


def in_new_process(way: str) -> dict[str, float]:
    """Call `save_rows` in a new process, since memory that an earlier save has freed would not grow again."""
    with tempfile.TemporaryDirectory() as folder:
        return run_workers(save_rows, (way, ROWS, folder), 1)


def save_rows(way: str, num_rows: int, folder: str) -> dict[str, float]:
    """Save label rows with AdamW's moments; return their bytes, the growth of memory in bytes, and seconds."""
    set_up_logging(is_main=False)
    with distributed() as ranks:
        layout = RowLayout.round_robin(np.arange(0, num_rows + 1, LABELS_PER_LEAF), 0, 1)
        level = make_level(layout, WIDTH, Exchange(is_alone=True), HeadConfig(), OptimConfig())
        for tensor in vars(level.rows).values():
            tensor.add_(1)  # memory counts only after it is written to
        save = {"cxml": save_rows_with_cxml, "DCP": save_rows_with_dcp}[way.split(maxsplit=1)[0].rstrip(",")]
        pieces = rows_to_save(level, SavedLevel.labels(num_rows, WIDTH))
        before = psutil.Process().memory_info().rss
        Path("/proc/self/clear_refs").write_text("5")  # resets Linux's record of the peak
        began = time.perf_counter()
        wait = save(way, pieces, folder, ranks)
        stall = time.perf_counter() - began
        wait()
        seconds = time.perf_counter() - began
        peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) << 10
        return {"rows": level.rows.num_bytes, "grown": peak - before, "stall": stall, "save": seconds}


def save_rows_with_cxml(way: str, pieces: dict[str, Pieces], folder: str, ranks: Ranks) -> Callable[[], object]:
    """Begin a save and return a function that waits for its end."""
    run = RunState(
        step=1, world_size=1, config={}, encoder={}, tree="", loader={}, optimizer_step=1, num_labels=1, width=WIDTH,
        label_head="rows",
    )  # fmt: skip
    free = 0 if way.endswith("waits") else 1 << 60
    saver = Saver(folder, CheckpointConfig(), ranks, free_memory=lambda: free)
    saver.start(Snapshot(run, pieces))
    return saver.close


def save_rows_with_dcp(way: str, pieces: dict[str, Pieces], folder: str, ranks: Ranks) -> Callable[[], object]:  # noqa: ARG001
    """Do the same with the writer of torch.distributed.checkpoint, which neither hashes nor checks the tensors."""
    tensors = {f"{name}@{start}": part for name, each in pieces.items() for start, part in each.parts.items()}
    writer = FileSystemWriter(folder)
    if way.endswith("async_save"):
        return cast("Future[Any]", state_dict_saver.async_save(tensors, storage_writer=writer)).result
    state_dict_saver.save(tensors, storage_writer=writer)
    return lambda: None


def report_memory(figures: dict[str, dict[str, float]]) -> None:
    """Print the second table."""
    rows = next(iter(figures.values()))["rows"]
    table = Table(title=f"{rows / 2**30:.2f} GiB of label rows saved by one process", title_justify="left")
    for heading in ("", "memory grows by", "training waits", "saved after"):
        table.add_column(heading, justify="right" if heading else "left")
    for way, one in figures.items():
        seconds = [f"{one[name]:.2f} s" for name in ("stall", "save")]
        table.add_row(way, f"{one['grown'] / 2**20:,.0f} MiB", *seconds)
    Console(width=110).print(table)


def report(num_labels: int, figures: dict[str, dict[str, float]]) -> None:
    """Print the first table."""
    table = Table(title=f"Checkpoints of {num_labels:,} labels, 384 wide", title_justify="left")
    for heading in ("", "training is paused for", "saved after", "loaded in", "GiB", "steps during the save take"):
        table.add_column(heading, justify="right" if heading else "left")
    for way, one in figures.items():
        slower = f"{one['slower']:.2f} x" if "slower" in one else ""
        seconds = [f"{one[name]:.2f} s" for name in ("stall", "save", "load")]
        table.add_row(way, *seconds, f"{one['bytes'] / 2**30:.2f}", slower)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
