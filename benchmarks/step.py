"""Training steps against their limit: the encoder's forward and backward pass alone, on the same batches.

    python benchmarks/step.py [--quick]

Trains on all of ICD-10-CM (28,163 labels) with MiniLM-L6, as configs/icd10cm.yaml says, one process, and times each
step and the bare encoder on the step's batch in turn, so that whatever else the machine does hits both. The ratio is
of medians. Prints the share of each part of a step, and one line of JSON at the end.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from support.closing_line import print_closing_line

from cxml.cli import load_config
from cxml.config import Config
from cxml.console import set_up_logging
from cxml.data import Batch, ShardedDataset, TrainLoader, data_url
from cxml.model import build_model
from cxml.parallel import build_engine, distributed, run_workers
from cxml.training import train_step
from cxml.tree import LabelTree, build, tree_url
from data_tools.preparation import prepare

ROOT = Path(__file__).parent.parent
GOAL = 0.8
WARM_UP = 2


def main() -> None:
    """Parse, prepare what is missing, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer steps: under 50 s on two cores")
    parser.add_argument("--folder", default="runs/benchmarks/step", help="where the prepared data and the tree stay")
    options = parser.parse_args()
    set_up_logging(is_speaker=True)
    config = dataclasses.replace(load_config(str(ROOT / "configs" / "icd10cm.yaml")), output=options.folder)
    prepare(config)
    if not Path(tree_url(config), "manifest.json").exists():
        build(config, ShardedDataset(data_url(config), "train")).save(tree_url(config), {})
    steps = 5 if options.quick else 60
    figures = run_workers(measure, (config, steps), 1)
    report(config, figures)


def measure(config: Config, steps: int) -> dict[str, list[float]]:
    """Seconds of each training step, and of the encoder alone on the same batch; and the texts of each."""
    figures: dict[str, list[float]] = {"step": [], "encoder": [], "texts": []}
    with distributed() as ranks:
        dataset = ShardedDataset(data_url(config), "train")
        torch.manual_seed(config.seed)
        model = build_model(config.model, LabelTree.load(tree_url(config)))
        engine = build_engine(model, config.train, config.optim, ranks)
        loader = TrainLoader(
            dataset, batch_size=config.train.batch_size, seed=config.seed, rank=0, world_size=1, accumulation=1,
            pad_id=dataset.manifest.tokenizer.pad_id,
        )  # fmt: skip
        for _, batches in zip(range(steps + WARM_UP), loader.epoch(0), strict=False):
            figures["step"].append(timed(lambda batches=batches: train_step(engine, batches, ranks)))
            figures["encoder"].append(timed(lambda batch=batches[0]: encoder_alone(model.encoder, batch)))
            model.zero_grad()
            figures["texts"].append(batches[0].size)
    return {name: values[WARM_UP:] for name, values in figures.items()}


def encoder_alone(encoder: torch.nn.Module, batch: Batch) -> None:
    """Forward and backward of the encoder, with a gradient of ones for every level's feature."""
    features = encoder(batch.input_ids, batch.attention_mask)
    torch.autograd.backward(features, [torch.ones_like(feature) for feature in features])


def timed(work: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def report(config: Config, figures: dict[str, list[float]]) -> None:
    """Print the table and the line of JSON."""
    texts = statistics.median(figures["texts"])
    speed = {name: texts / statistics.median(figures[name]) for name in ("step", "encoder")}
    table = Table(title="Texts per second, medians of alternating steps", title_justify="left")
    for heading in ("batch", "training", "encoder alone", "ratio"):
        table.add_column(heading, justify="right")
    ratio = speed["step"] / speed["encoder"]
    table.add_row(str(config.train.batch_size), f"{speed['step']:.1f}", f"{speed['encoder']:.1f}", f"{ratio:.2f}")
    Console().print(table)
    print_closing_line("step", speed["step"], "texts/s", speed["encoder"], goal=GOAL)


if __name__ == "__main__":
    main()
