"""Adds up in two ways what a whole training step holds in a GPU's memory at 2.8 million labels.

    python benchmarks/memory.py [--quick] [--labels N] [--texts N] [--tokens N] [--where]

The first way is the plan that `--dry-run` prints. The second is the real step: encoder, heads, label rows, engine and
optimiser are those of a training, on tensors that have sizes and no data (`FakeTensorMode`). Every allocation and
release is recorded. Nothing is timed, so any machine will do. A step is BERT-base on 128 texts of 128 tokens, with all
labels scored. The limits are what ELMO's authors measured on Amazon-3M on one GPU: 10.4 GiB with label rows in bf16 and
6.6 GiB in fp8. Memory that CUDA, cuBLAS and the allocator's rounding take (about 0.5 GiB) is not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from support.closing_line import print_closing_line
from support.fake_accelerator import fake_accelerator
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertConfig

from cxml.config import Config, config_from_dict
from cxml.data import Batch, BatchLimits
from cxml.model import CascadeXML, build_model, read_encoder_config
from cxml.optim import Schedule
from cxml.parallel import Exchange, Plan, Ranks, ShardedLevel, build_engine, sharded_levels
from cxml.pipeline.plan import DataFacts, plan_for
from cxml.training import train_step
from cxml.tree import LabelTree, plan_splits

GIB = 2**30
LABELS, TEXTS, TOKENS, TRUE = 2_812_281, 128, 128, 36  # Amazon-3M; TRUE: labels of a text
LEVELS = (256, 8192)
MOST_APART = 0.05
STEPS = 3  # the first step allocates the optimiser's state


@dataclass(frozen=True, kw_only=True)
class Case:
    """Configuration of a training.

    Attributes:
        name: name in the table.
        head: fields of the config's section `head`.
        bottleneck: width of the label rows; 0 stands for the width of the encoder.
        recomputes: `train.activation_checkpointing`.
        most: limit in GiB; 0 stands for no limit.
    """

    name: str
    head: dict[str, Any]
    bottleneck: int = 0
    recomputes: bool
    most: float = 0.0


ALL = {"candidates": "all"}
FORMATS = {
    "fp8, SGD": {"weights": "fp8", "optimizer": "sgd"},
    "bf16, SGD": {"weights": "bf16", "optimizer": "sgd"},
    "bf16, AdamW, one second moment per row": {"weights": "bf16", "second_moment": "row"},
    "fp32, AdamW": {},
}
LIMITS = {"fp8, SGD": 6.6, "bf16, SGD": 10.4}  # GiB


def case_of(rows: str, *, recomputes: bool) -> Case:
    """Case of a row format with all labels scored; the limit holds with recomputed activations."""
    name = f"{rows}, recomputed" if recomputes else rows
    return Case(
        name=name, head=ALL | FORMATS[rows], recomputes=recomputes, most=LIMITS.get(rows, 0.0) if recomputes else 0.0
    )  # fmt: skip


CASES = (
    case_of("fp8, SGD", recomputes=True),
    case_of("bf16, SGD", recomputes=True),
    case_of("fp8, SGD", recomputes=False),
    case_of("bf16, SGD", recomputes=False),
    case_of("bf16, AdamW, one second moment per row", recomputes=True),
    Case(name="fp8, SGD, shortlists, recomputed", head=FORMATS["fp8, SGD"], recomputes=True),
    Case(name="bf16, SGD, rows 64 wide, recomputed", head=ALL | FORMATS["bf16, SGD"], bottleneck=64, recomputes=True),
    Case(name="fp32, AdamW, rows 64 wide, recomputed", head=ALL, bottleneck=64, recomputes=True),
    Case(name="fp32, AdamW, rows 64 wide, shortlists, recomputed", head={}, bottleneck=64, recomputes=True),
)


class Memory(TorchDispatchMode):
    """Records allocations and releases of the memory of a device's tensors.

    Attributes:
        live: bytes allocated now.
        peak: largest number of bytes so far.
        at_peak: bytes at the peak by the operator that made them.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.live, self.peak = 0, 0
        self.at_peak: Counter[str] = Counter()
        self._by_operator: Counter[str] = Counter()
        self._device, self._known = device, weakref.WeakSet[torch.UntypedStorage]()

    def begin(self) -> None:
        """Reset the peak to the present bytes."""
        self.peak, self.at_peak = self.live, self._by_operator.copy()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
        result = func(*args, **(kwargs or {}))
        for leaf in pytree.tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.device.type == self._device.type:
                self._note(leaf.untyped_storage(), str(func))
        return result

    def _note(self, storage: torch.UntypedStorage, operator: str) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.live += size
        self._by_operator[operator] += size
        weakref.finalize(storage, self._release, size, operator)
        if self.live > self.peak:
            self.begin()

    def _release(self, size: int, operator: str) -> None:
        self.live -= size
        self._by_operator[operator] -= size


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Numbers of labels, texts of a step, tokens of a text, and clusters of each level of the tree."""

    labels: int = LABELS
    texts: int = TEXTS
    tokens: int = TOKENS
    level_sizes: tuple[int, ...] = LEVELS

    def tree(self) -> LabelTree:
        """Tree whose nodes have numbers of children that differ by at most one."""
        return LabelTree(np.arange(self.labels, dtype=np.int32), plan_splits(self.labels, self.level_sizes).offsets)


@dataclass(frozen=True, kw_only=True)
class Found:
    """Bytes according to the plan, and bytes of the step."""

    plan: Plan
    live: int
    peak: int
    at_peak: Counter[str] = field(default_factory=Counter)


def measure(case: Case, sizes: Sizes, folder: Path) -> Found:
    """Add up the memory of a case in both ways."""
    config = config_of(case, sizes, folder)
    plan = plan_of(config, sizes)
    with fake_accelerator() as device, patched():
        memory = Memory(device)
        model = model_of(config, sizes)  # building the model reads the tree's values
        with FakeTensorMode(allow_non_fake_inputs=True), memory:
            move_without_data(model, device)
            live = run_steps(model, config, sizes, device, memory)
    return Found(plan=plan, live=live, peak=memory.peak, at_peak=memory.at_peak)


def plan_of(config: Config, sizes: Sizes) -> Plan:
    """Plan that `--dry-run` makes for texts of equal lengths."""
    num_texts = 100 * sizes.texts
    facts = DataFacts(num_texts=num_texts, num_labels=sizes.labels, lengths=np.full(num_texts, sizes.tokens))
    return plan_for(config, facts)


def config_of(case: Case, sizes: Sizes, folder: Path) -> Config:
    """Config of a case."""
    return config_from_dict(
        {
            "auto": [],
            "output": str(folder / "output"),
            "data": {"source": {"kind": "xmc", "path": str(folder)}, "max_length": sizes.tokens},
            "tree": {"level_sizes": sizes.level_sizes},
            "model": {"encoder": str(folder), "bottleneck": case.bottleneck},
            "head": case.head,
            "train": {"batch_size": sizes.texts, "precision": "bf16", "activation_checkpointing": case.recomputes},
        }
    )


def model_of(config: Config, sizes: Sizes) -> CascadeXML:
    """Make a model with fresh weights in host memory; its rows are zeros, which take no memory there."""
    tree = sizes.tree()
    levels = sharded_levels(tree, Exchange(is_alone=True), config)
    with mock.patch("cxml.parallel.sharded_level.current_device", return_value=torch.device("cpu")):
        model = build_model(config.model, tree, read_encoder_config(config.model), levels)
    if config.train.activation_checkpointing:
        model.encoder.recompute_activations()
    return model


def move_without_data(model: CascadeXML, device: torch.device) -> None:
    """Replace weights, buffers and rows by tensors without data on a device."""
    for level in (*model.cluster_levels, model.label_head):
        rows = cast(ShardedLevel, level).rows
        for name, values in vars(rows).items():
            setattr(rows, name, torch.empty_like(values, device=device))
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.empty_like(weight, device=device)))
        for name, values in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty_like(values, device=device))


def run_steps(model: CascadeXML, config: Config, sizes: Sizes, device: torch.device, memory: Memory) -> int:
    """Set up a training and take its first steps; return the bytes allocated after them."""
    ranks = Ranks(rank=0, world_size=1, local_rank=0, device=device)
    engine = build_engine(model, config.train, config.optim, ranks)
    schedule = Schedule(
        engine.optimizer, steps_per_epoch=100, epochs=config.train.epochs, config=config.optim,
        rows=cast(ShardedLevel, model.label_head).schedule, rows_lr=config.head.learning_rate,
    )  # fmt: skip
    engine.train()
    for step in range(STEPS):
        schedule.apply(step)
        memory.begin()
        train_step(engine, [batch_of(sizes, device)], ranks, step + 1)
    return memory.live


def batch_of(sizes: Sizes, device: torch.device) -> Batch:
    """Batch of texts of full length with equal numbers of labels."""
    shape, count = (sizes.texts, sizes.tokens), sizes.texts * TRUE
    ones = {"dtype": torch.int64, "device": device}
    return Batch(
        input_ids=torch.ones(shape, **ones), attention_mask=torch.ones(shape, **ones),
        label_values=torch.ones(count, **ones), label_offsets=torch.ones(sizes.texts + 1, **ones),
        lengths=np.full(sizes.texts, sizes.tokens), global_size=sizes.texts,
        limits=BatchLimits(texts=sizes.texts, labels=count, labels_of_a_text=TRUE),
    )  # fmt: skip


@contextlib.contextmanager
def patched() -> Iterator[None]:
    """Let attention use the kernel of CUDA within this context."""

    def attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor,
        dropout_p: float = 0.0,
        **_: Any,  # noqa: ANN401
    ) -> Tensor:
        bias = torch.zeros_like(attn_mask, dtype=query.dtype).expand(-1, query.shape[1], -1, -1)
        return torch.ops.aten._scaled_dot_product_efficient_attention(query, key, value, bias, True, dropout_p)[0]

    def convert(module: nn.Module, function: Callable[[Tensor], Tensor]) -> nn.Module:
        for weight in module.parameters():
            weight.data = function(weight.data)
        for part in module.modules():
            for name, values in part.named_buffers(recurse=False):
                setattr(part, name, function(values))
        return module

    with (
        mock.patch.object(nn.Module, "_apply", convert),  # torch's swaps tensors, which not all types allow
        mock.patch.object(F, "scaled_dot_product_attention", attention),
        mock.patch.object(Tensor, "pin_memory", lambda tensor, device=None: tensor),  # noqa: ARG005
    ):
        yield


def main() -> None:
    """Parse, add up, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the first two cases: under 50 s on two cores")
    parser.add_argument("--labels", type=int, default=LABELS)
    parser.add_argument("--texts", type=int, default=TEXTS)
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--where", action="store_true", help="also print the operators that made the tensors")
    options = parser.parse_args()
    sizes = Sizes(labels=options.labels, texts=options.texts, tokens=options.tokens)
    with tempfile.TemporaryDirectory() as scratch:
        BertConfig().save_pretrained(scratch)
        found = [(case, measure(case, sizes, Path(scratch))) for case in CASES[: 2 if options.quick else None]]
    report(found)
    if options.where:
        for case, own in found:
            for operator, size in own.at_peak.most_common(12):
                print(f"{case.name} | {operator} | {size / GIB:.2f} GiB")


def report(found: list[tuple[Case, Found]]) -> None:
    """Print the table and the closing line."""
    title = "GiB of a training step"
    table = Table(title=title, title_justify="left")
    headings = ("rows", "state", "activations", "plan", "between steps", "peak", "apart", "limit")
    for heading in ("", *headings):
        table.add_column(heading, justify="right" if heading else "left")
    holds = True
    for case, own in found:
        plan, apart = own.plan, own.plan.bytes_per_rank / own.peak - 1
        state = plan.weights + plan.gradients + plan.optimizer
        sizes = (plan.label_rows, state, plan.activations, plan.bytes_per_rank, own.live, own.peak)
        cells = [f"{(size or 0) / GIB:.2f}" for size in sizes]
        table.add_row(case.name, *cells, f"{apart:+.1%}", f"{case.most:.1f}" if case.most else "")
        holds &= abs(apart) <= MOST_APART and (not case.most or max(own.peak, plan.bytes_per_rank) <= case.most * GIB)
    Console(width=120).print(table)
    case, own = found[0]
    print_closing_line(
        f"memory, {case.name}", own.peak / GIB, "GiB", case.most, goal=1, lower_is_better=True, provided=holds
    )


if __name__ == "__main__":
    main()
