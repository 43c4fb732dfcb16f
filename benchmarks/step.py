"""Compares training steps with their limit, the encoder's forward and backward pass alone, on the same batches.

    python benchmarks/step.py [--quick]

The model is trained on all of ICD-10-CM (28,163 labels) with the whole of MiniLM-L6 and the default head, which scores
labels on shortlists. Other settings are those of configs/icd10cm.yaml. One process trains in the precision that is
fastest on this machine. On each batch the benchmark times the training step and the bare encoder in that precision and
in fp32, and the fp32 step of a plain implementation, which goes through a batch text by text and updates every weight.
These alternate, so that other load on the machine affects all alike. Ratios are those of medians.

The last line is JSON: our step against the encoder alone. The goal also asks that a step spends at most a quarter of
the plain implementation's time outside the encoder. Where the machine is fast in bf16, a step must be at least 1.7
times as fast as in fp32.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from support.closing_line import print_closing_line
from torch import Tensor

from cxml.accelerators import fast_precision
from cxml.config import Config, HeadConfig
from cxml.config_files import load_config
from cxml.console import set_up_logging
from cxml.data import Batch, ShardedDataset, data_url
from cxml.model import CascadeXML, build_model
from cxml.parallel import distributed, run_workers
from cxml.preparation import prepare
from cxml.training import train_step, with_precision
from cxml.training.setting_up import set_up
from cxml.tree import LabelTree, build, tree_url

ROOT = Path(__file__).parent.parent
GOAL = 0.85
MOST_OF_PLAIN_REST = 0.25
LEAST_GAIN = 1.7  # speed-up by bf16, where the machine is fast in it
WARM_UP = 2


def main() -> None:
    """Parse, prepare what is missing, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer steps: under 50 s on two cores")
    parser.add_argument("--folder", default="runs/benchmarks/step", help="folder of the prepared data and the tree")
    options = parser.parse_args()
    set_up_logging(is_main=True)
    config = load_config(str(ROOT / "configs" / "icd10cm.yaml"))
    model = dataclasses.replace(config.model, freeze_layers=0, classifier_start="fresh")
    config = dataclasses.replace(config, model=model, head=HeadConfig(), output=options.folder)
    prepare(config)
    if not Path(tree_url(config), "manifest.json").exists():
        build(config, ShardedDataset(data_url(config), "train")).save(tree_url(config), {})
    steps = 3 if options.quick else 60
    figures = run_workers(measure, (config, steps), 1)
    report(config, figures)


def measure(config: Config, steps: int) -> dict[str, list[float]]:
    """Seconds of each training step, and of the encoder alone and the plain step on the same batch; and its texts.

    `step` and `encoder` compute in the fastest precision.
    """
    figures: dict[str, list[float]] = {
        name: [] for name in ("step", "encoder", "step, fp32", "encoder, fp32", "plain", "texts")
    }
    with distributed() as ranks:
        state, schedule = set_up(config, ranks)
        in_fp32, schedule_in_fp32 = set_up(with_precision(config, "fp32"), ranks)
        tree = LabelTree.load(tree_url(config))
        torch.manual_seed(config.seed)
        plain = PlainCascade(build_model(config.model, tree), tree)
        encoders = {"encoder": copy.deepcopy(plain.model.encoder), "encoder, fp32": plain.model.encoder}
        encoders["encoder"].to(state.model.encoder.transformer.dtype)
        for step, batches in zip(range(steps + WARM_UP), state.loader.epoch(0), strict=False):
            schedule.apply(step)
            schedule_in_fp32.apply(step)
            figures["step"].append(timed(lambda batches=batches: train_step(state.engine, batches, ranks)))
            figures["step, fp32"].append(timed(lambda batches=batches: train_step(in_fp32.engine, batches, ranks)))
            for name, encoder in encoders.items():
                figures[name].append(timed(lambda batch=batches[0], encoder=encoder: encoder_alone(encoder, batch)))
                encoder.zero_grad()
            figures["plain"].append(timed(lambda batch=batches[0]: plain.step(batch)))
            figures["texts"].append(batches[0].size)
    return {name: values[WARM_UP:] for name, values in figures.items()}


class PlainCascade:
    """A plain training step: it goes through the batch text by text, with one optimiser for all weights."""

    def __init__(self, model: CascadeXML, tree: LabelTree) -> None:
        """Take over a model of ordinary parameters."""
        self.model, self._tree = model, tree
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        self._heads = [*model.cluster_heads, *model.label_head.get_submodule("blocks").children()]  # pyright: ignore
        self._positions = torch.from_numpy(tree.label_order).long().argsort()
        self._parents = [torch.from_numpy(tree.parents(level)) for level in range(1, len(self._heads))]
        self._children = [[torch.arange(a, b) for a, b in pairwise(offsets.tolist())] for offsets in tree.offsets]

    def step(self, batch: Batch) -> None:
        """Take one step: forward, backward, update."""
        features = self.model.encoder(batch.input_ids, batch.attention_mask)
        loss = sum((self._loss(features, batch, text) for text in range(batch.size)), start=torch.zeros(()))
        (loss / batch.size).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def _loss(self, features: list[Tensor], batch: Batch, text: int) -> Tensor:
        labels = batch.label_values[batch.label_offsets[text] : batch.label_offsets[text + 1]]
        true = [self._positions[labels]]
        for parents in reversed(self._parents):
            true.insert(0, parents[true[0]].unique())
        shortlist, loss = torch.arange(self._tree.level_sizes[0]), torch.zeros(())
        for level, head in enumerate(self._heads):
            logits = head.weight[shortlist] @ features[level][text] + head.bias[shortlist]
            is_true = torch.isin(shortlist, true[level])
            loss = loss + F.binary_cross_entropy_with_logits(logits, is_true.float())
            if level < len(self._parents):
                ranking = logits.detach().sigmoid() + is_true
                best = ranking.topk(min(self.model.shortlist_sizes[level], len(ranking))).indices
                shortlist = torch.cat([self._children[level][node] for node in shortlist[best].tolist()])
        return loss


def encoder_alone(encoder: torch.nn.Module, batch: Batch) -> None:
    """Forward and backward pass of the encoder, with a gradient of ones for every level's feature."""
    features = encoder(batch.input_ids, batch.attention_mask)
    torch.autograd.backward(features, [torch.ones_like(feature) for feature in features])


def timed(work: Callable[[], object]) -> float:
    """Call `work` and return the seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def report(config: Config, figures: dict[str, list[float]]) -> None:
    """Print the table and the line of JSON."""
    texts = statistics.median(figures["texts"])
    seconds = {name: statistics.median(values) for name, values in figures.items() if name != "texts"}
    table = Table(title=f"Batches of {config.train.batch_size}, medians of alternating steps", title_justify="left")
    for heading in ("", "texts/s", "of the encoder alone", "ms outside the encoder"):
        table.add_column(heading, justify="right")
    rest: dict[str, float] = {}
    for name, alone in (("step", "encoder"), ("step, fp32", "encoder, fp32"), ("plain", "encoder, fp32")):
        rest[name] = max(0.0, seconds[name] - seconds[alone])
        ratio = seconds[alone] / seconds[name]
        table.add_row(name, f"{texts / seconds[name]:.1f}", f"{ratio:.2f}", f"{1000 * rest[name]:.0f}")
    for name in ("encoder", "encoder, fp32"):
        table.add_row(name, f"{texts / seconds[name]:.1f}", "", "")
    Console().print(table)
    gain = seconds["step, fp32"] / seconds["step"]
    print(f"A step in the fastest precision takes 1 / {gain:.2f} of its time in fp32.")
    holds = rest["step"] <= MOST_OF_PLAIN_REST * rest["plain"]
    holds &= fast_precision(torch.device("cpu")) == "fp32" or gain >= LEAST_GAIN
    speeds = texts / seconds["step"], texts / seconds["encoder"]
    print_closing_line("step", speeds[0], "texts/s", speeds[1], goal=GOAL, provided=holds)


if __name__ == "__main__":
    main()
