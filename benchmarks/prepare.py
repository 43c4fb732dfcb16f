"""Compares data preparation with the bare tokenizer on the same texts and cores, and its memory at N and 4 N texts.

    python benchmarks/prepare.py [--quick] [--texts 500000] [--rounds 3]
    python benchmarks/prepare.py --scale 5000000 [--engine local]

The raw files hold real texts (ICD-10-CM's, with one random word left out of each). Preparation is measured end to end:
hash, parse, count words, tokenise, weigh, write shards, check, commit. The limit is a loop of the `tokenizers`
library's `encode_batch` over the same texts, already in memory, on all cores. All ways alternate in fresh processes.
Packages are loaded and Ray is started before the clock starts; Ray's workers start after it. The table also shows CPU
time, which does not depend on other load of the machine. Memory is the peak of the preparing process. With --scale,
that many texts are prepared once and nothing is compared. The last line is JSON: the slower engine at 4 N texts.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from support.closing_line import print_closing_line
from support.raw_texts import write_raw

from cxml.data import DataManifest

GOAL = 0.8
GOAL_OF_FEW = 0.4  # for few texts, where the start takes longer than the work
MEMORY_GOAL = 1.15
MAX_LENGTH = 64
WORKER = Path(__file__).parent / "peers" / "prepare_texts.py"


def main() -> None:
    """Parse, write raw files, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="40,000 texts, this process only: under 50 s")
    parser.add_argument("--texts", type=int, default=500_000, help="number of texts N")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=int, help="only prepare this many texts once")
    parser.add_argument("--engine", choices=["local", "ray"], default="local", help="engine for --scale")
    arguments = parser.parse_args()
    if arguments.scale:
        with tempfile.TemporaryDirectory() as scratch:
            print(json.dumps(scale(Path(scratch), arguments.scale, arguments.engine)))
        return
    num_texts: int = 40_000 if arguments.quick else arguments.texts
    rounds = 1 if arguments.quick else arguments.rounds
    engines = ["local"] if arguments.quick else ["local", "ray"]
    with tempfile.TemporaryDirectory() as scratch:
        sizes = measure(Path(scratch), num_texts, rounds, engines)
    print_table(sizes)
    engine, found = min(((each, sizes[4 * num_texts][each]) for each in engines), key=lambda pair: pair[1]["ratio"])
    speed, goal = found["texts_per_second"], GOAL_OF_FEW if arguments.quick else GOAL
    print_closing_line(f"prepare, {engine}", speed, "texts/s", speed / found["ratio"], goal=goal)


def scale(scratch: Path, num_texts: int, engine: str) -> dict[str, Any]:
    """Prepare once; return speed, memory of the preparing process, and size of the result."""
    write_raw(scratch / "raw", num_texts)
    figures = run(engine, scratch / "raw", scratch / "out")
    manifest = DataManifest.read(str(scratch / "out" / "data"))
    return {
        "benchmark": "prepare at scale",
        "engine": engine,
        "texts": manifest.rows("train") + manifest.rows("test"),
        "shards": sum(map(len, manifest.splits.values())),
        "gib": sum(shard.bytes for shard in manifest.files()) / 2**30,
        "peak_mib": figures["bytes"] / 2**20,
        **figures,
    }


def measure(scratch: Path, num_texts: int, rounds: int, engines: list[str]) -> dict[int, dict[str, dict[str, float]]]:
    """Measure medians of the rounds at N texts, and one round at 4 N; ratios are medians over the rounds."""
    sizes: dict[int, dict[str, dict[str, float]]] = {}
    for texts, repeats in ((num_texts, rounds), (4 * num_texts, 1)):
        raw = scratch / "raw"
        write_raw(raw, texts)
        runs = [{way: run(way, raw, scratch / "out") for way in ("bare", *engines)} for _ in range(repeats)]
        sizes[texts] = {way: summary(way, runs) for way in runs[0]}
        shutil.rmtree(raw)
    return sizes


def summary(way: str, runs: list[dict[str, dict[str, float]]]) -> dict[str, float]:
    """Medians of a way's figures, and of its speed relative to the bare loop in the same round."""
    median = {key: statistics.median(one[way][key] for one in runs) for key in runs[0][way]}
    ratios = [one[way]["texts_per_second"] / one["bare"]["texts_per_second"] for one in runs]
    return {**median, "ratio": statistics.median(ratios)}


def run(way: str, raw: Path, out: Path) -> dict[str, float]:
    """Run one way in a fresh process."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, str(WORKER), way, str(raw), str(out), str(MAX_LENGTH)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def print_table(sizes: dict[int, dict[str, dict[str, float]]]) -> None:
    """Print the table."""
    console = Console()
    table = Table("texts", "", "texts/s", "CPU s", "share of the bare loop", "goal")
    for texts, ways in sizes.items():
        for way, found in ways.items():
            goal = "" if way == "bare" or texts == min(sizes) else f">= {GOAL}"
            ratio = f"{found['ratio']:.2f}"
            table.add_row(
                f"{texts:,}", way, f"{found['texts_per_second']:,.0f}", f"{found['cpu_seconds']:.1f}", ratio, goal
            )
    console.print(table)
    small, large = (ways["local"]["bytes"] / 2**20 for ways in sizes.values())
    console.print(
        f"Peak memory, local: {small:.0f} MiB at N, {large:.0f} MiB at 4 N: {large / small:.2f} (goal <= {MEMORY_GOAL})"
    )


if __name__ == "__main__":
    main()
