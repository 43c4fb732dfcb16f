"""Preparation against the bare tokenizer on the same texts and cores, and its memory at N and 4 N texts.

    python benchmarks/prepare.py [--quick] [--texts 500000] [--rounds 3]
    python benchmarks/prepare.py --scale 5000000 [--engine local]

Real texts (ICD-10-CM's, one word left out of each at random) lie in raw files. Preparing them end to end means: hash,
parse, count words, tokenise, weigh, write shards, check, commit. The limit is a loop of the `tokenizers` library's
`encode_batch` over the same texts, already in memory, with all cores. Both run in turn in fresh processes; Ray is
started before the clock. Besides wall time the CPU time is told, which other work on the machine does not change.
Memory is the peak of what the preparing process holds. With --scale, that many texts are prepared once and nothing is
compared. The last line is JSON.
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
MEMORY_GOAL = 1.15
MAX_LENGTH = 64
WORKER = Path(__file__).parent / "peers" / "prepare_texts.py"


def main() -> None:
    """Parse, write raw files, measure in turn, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="40,000 texts, this process only: under 50 s")
    parser.add_argument("--texts", type=int, default=500_000, help="N")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=int, help="prepare so many texts once, and only that")
    parser.add_argument("--engine", choices=["local", "ray"], default="local", help="of --scale")
    arguments = parser.parse_args()
    if arguments.scale:
        with tempfile.TemporaryDirectory() as scratch:
            print(json.dumps(scale(Path(scratch), arguments.scale, arguments.engine)))
        return
    num_texts, rounds = (40_000, 1) if arguments.quick else (arguments.texts, arguments.rounds)
    engines = ["local"] if arguments.quick else ["local", "ray"]
    with tempfile.TemporaryDirectory() as scratch:
        result = measure(Path(scratch), num_texts, rounds, engines)
    print_table(result)
    speed = {way: figures["texts_per_second"] for way, figures in result["ways"].items()}
    print_closing_line("prepare", speed["local"], "texts/s", speed["bare"], goal=GOAL)


def scale(scratch: Path, num_texts: int, engine: str) -> dict[str, Any]:
    """Prepare once; speed, memory of the preparing process, size of what came out."""
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


def measure(scratch: Path, num_texts: int, rounds: int, engines: list[str]) -> dict[str, Any]:
    """Medians over the rounds, and ratios to the bare loop."""
    raw, larger = scratch / "raw", scratch / "larger"
    write_raw(raw, num_texts)
    write_raw(larger, 4 * num_texts)
    ways = ["bare", *engines]
    runs = [{way: run(way, raw, scratch / "out") for way in ways} for _ in range(rounds)]
    keys = "texts_per_second", "cpu_seconds"
    median = {way: {key: statistics.median(one[way][key] for one in runs) for key in keys} for way in ways}
    small, large = (run("local", folder, scratch / "out")["bytes"] for folder in (raw, larger))
    return {
        "texts": num_texts,
        "ways": median,
        "ratio": {
            engine: statistics.median(
                round_[engine]["texts_per_second"] / round_["bare"]["texts_per_second"] for round_ in runs
            )
            for engine in engines
        },
        "peak_mib": {"N": small / 2**20, "4N": large / 2**20},
        "memory_ratio": large / small,
    }


def run(way: str, raw: Path, out: Path) -> dict[str, float]:
    """One way in a fresh process."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, str(WORKER), way, str(raw), str(out), str(MAX_LENGTH)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def print_table(result: dict) -> None:
    """The figures for people."""
    console = Console()
    table = Table("", "texts/s", "CPU s", "share of the bare loop", "goal", title=f"{result['texts']:,} texts")
    for way, figures in result["ways"].items():
        ratio = f"{result['ratio'][way]:.2f}" if way in result["ratio"] else "1"
        goal = f">= {GOAL}" if way in result["ratio"] else ""
        table.add_row(way, f"{figures['texts_per_second']:,.0f}", f"{figures['cpu_seconds']:.1f}", ratio, goal)
    console.print(table)
    peak = result["peak_mib"]
    console.print(
        f"Peak memory: {peak['N']:.0f} MiB at N, {peak['4N']:.0f} MiB at 4 N: "
        f"{result['memory_ratio']:.2f} (goal <= {MEMORY_GOAL})"
    )


if __name__ == "__main__":
    main()
