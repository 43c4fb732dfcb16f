"""Measures what the engine around the model costs a bf16 step: DeepSpeed's engine of each kind, and the plain engine.

    python benchmarks/engines.py [--quick]

The model is BERT of MiniLM's size with random weights. The table counts what a step with two micro-batches costs
besides the forward and backward passes themselves. The counts are those of the first of four simulated processes on a
fake accelerator (`support.fake_accelerator`):

waits      how often the host waits for the device: for values that it reads, and for copies from unpinned memory
launches   kernels of the engine: gradients collected and reduced, norm, clipping, AdamW, weights made of fp32 copies
bytes      bytes of the tensors that this process passes to collectives, per weight

The last column is the median time of a step of one micro-batch on two real processes of one thread each, which
communicate by gloo. The engines' steps alternate. The last line is JSON: the launches of the plain engine against the
fewest of DeepSpeed's engines (without autocast, whose casts cannot be counted). It holds only if the plain engine never
makes the host wait.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)
os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed reads it

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from support.closing_line import print_closing_line
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertConfig, BertModel

from cxml.config import OptimConfig, TrainConfig
from cxml.internals.deepspeed import without_extensions
from cxml.optim import parameter_groups
from cxml.parallel import Ranks, build_engine, distributed, run_workers, take_step

PLAIN = "plain engine"
NO_ZERO, AUTOCAST = "DeepSpeed without ZeRO", "DeepSpeed, autocast"
ZERO = {f"DeepSpeed, ZeRO {stage}": stage for stage in (1, 2, 3)}
ENGINES = (PLAIN, NO_ZERO, AUTOCAST, *ZERO)
TEXTS, LENGTH = 8, 32  # texts of a micro-batch and process, and their tokens
RANKS, MICRO_BATCHES = 4, 2  # simulated
GOAL = 1.0


def main() -> None:
    """Parse, count, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 steps of each engine: under 50 s on two cores")
    steps = 3 if parser.parse_args().quick else 20
    warnings.filterwarnings("ignore", "Set timeout")  # the collectives of this process group return at once
    times = run_workers(time_steps, (steps,), 2)
    counts = count_steps()
    report(counts, times)


class Encoder(nn.Module):
    """A BERT that returns a scalar loss."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        config = BertConfig(
            vocab_size=30522, hidden_size=width, num_hidden_layers=layers, num_attention_heads=4,
            intermediate_size=4 * width, max_position_embeddings=64,
        )  # fmt: skip
        self.encoder = BertModel(config, add_pooling_layer=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Mean square of the last hidden states, float32 []."""
        states = self.encoder(input_ids).last_hidden_state
        return states.float().square().mean()


def make_engine(name: str, model: nn.Module, ranks: Ranks, accumulation: int) -> Any:  # noqa: ANN401 - of two kinds
    """Make the engine of this name around a model."""
    texts = TEXTS * ranks.world_size * accumulation
    train = TrainConfig(
        batch_size=texts, accumulation=accumulation, precision="bf16", zero_stage=ZERO.get(name, 0)  # type: ignore[arg-type]
    )  # fmt: skip
    if name not in (NO_ZERO, AUTOCAST):
        return build_engine(model, train, OptimConfig(), ranks)
    import deepspeed  # noqa: PLC0415 - seconds

    without_extensions()
    optimizer = torch.optim.AdamW(parameter_groups(model.to(ranks.device), OptimConfig()), fused=True)
    precision = {"torch_autocast": {"enabled": True, "dtype": "bfloat16"}} if name == AUTOCAST else {}
    config = {
        "train_micro_batch_size_per_gpu": TEXTS, "gradient_accumulation_steps": accumulation, "gradient_clipping": 1.0,
        "bf16": {"enabled": name == NO_ZERO}, **precision,
    }  # fmt: skip
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)
    return engine


def take(engine: Any, micro_batches: list[Tensor]) -> None:  # noqa: ANN401 - of two kinds
    """Take one step of an engine."""
    for number, input_ids in enumerate(micro_batches, start=1):
        engine.backward(engine(input_ids))
        is_last = number == len(micro_batches)
        if hasattr(engine, "step_check"):
            take_step(engine, torch.ones((), dtype=torch.bool, device=input_ids.device) if is_last else None)
        else:
            engine.step()


def time_steps(steps: int) -> dict[str, float]:
    """Median time of a step of each engine, in seconds."""
    with distributed(threads=1) as ranks:
        engines = {name: make_engine(name, make_model(6, 384), ranks, accumulation=1) for name in ENGINES}
        times: dict[str, list[float]] = {name: [] for name in ENGINES}
        for _ in range(steps + 1):
            for name, engine in engines.items():
                input_ids = torch.randint(30522, (TEXTS, LENGTH))
                dist.barrier()
                began = time.perf_counter()
                take(engine, [input_ids])
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(seconds[1:]) for name, seconds in times.items()}


def make_model(layers: int, width: int) -> Encoder:
    """Make a model with the same weights at every call."""
    torch.manual_seed(0)
    return Encoder(layers, width)


def count_steps() -> dict[str, dict[str, float]]:
    """Counts of a step of each engine."""
    from support.fake_accelerator import counted, fake_accelerator  # noqa: PLC0415 - changes torch for good
    from support.fake_deepspeed import deepspeed_on_fake_accelerator  # noqa: PLC0415
    from torch.testing._internal.distributed.fake_pg import FakeStore  # noqa: PLC0415 - much of torch's tests

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=RANKS)
    found: dict[str, dict[str, float]] = {}
    with fake_accelerator() as device, deepspeed_on_fake_accelerator():
        ranks = Ranks(rank=0, world_size=RANKS, local_rank=0, device=device)
        micro_batches = [torch.randint(30522, (TEXTS, LENGTH)).to(device) for _ in range(MICRO_BATCHES)]
        bare = make_model(6, 32).to(device).bfloat16()
        bare(micro_batches[0]).backward()
        bare.zero_grad()
        with counted() as counts:
            bare(micro_batches[0]).backward()
        passes = MICRO_BATCHES * counts.totals()["launches"]
        for name in ENGINES:
            engine = make_engine(name, make_model(6, 32), ranks, MICRO_BATCHES)
            weights = sum(getattr(p, "ds_numel", p.numel()) for p in engine.module.parameters())
            for _ in range(2):
                take(engine, micro_batches)
            with bytes_sent() as sent, counted() as counts:
                take(engine, micro_batches)
            totals = counts.totals()
            waits = totals["blocking"] + totals["pageable"]
            found[name] = {"waits": waits, "launches": totals["launches"] - passes, "sent": sum(sent) / weights}
            for kind in ("blocking", "pageable"):
                for place, number in getattr(counts, kind).most_common():
                    print(f"{name} | {kind} | {number} | {place}")
    dist.destroy_process_group()
    return found


@contextmanager
def bytes_sent() -> Iterator[list[int]]:
    """Record the bytes of the tensors passed to collectives within this context."""
    sent: list[int] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN204
            if func.namespace == "c10d":
                own = args[1] if "gather" in str(func) or "scatter" in str(func) else args[0]
                leaves = [leaf for leaf in pytree.tree_leaves(own) if isinstance(leaf, Tensor)]
                sent.append(sum(leaf.numel() * leaf.element_size() for leaf in leaves))
            return func(*args, **(kwargs or {}))

    with Watch():
        yield sent


def report(counts: dict[str, dict[str, float]], times: dict[str, float]) -> None:
    """Print the table and the closing line."""
    table = Table(title="A step in bf16", title_justify="left")
    for heading in ("", "waits", "launches", "bytes sent per weight", "ms, 2 processes"):
        table.add_column(heading, justify="right")
    for name, found in counts.items():
        cells = f"{found['waits']:.0f}", f"{found['launches']:.0f}", f"{found['sent']:.1f}", f"{1000 * times[name]:.0f}"
        table.add_row(name, *cells)
    Console(width=120).print(table)
    fewest = min(found["launches"] for name, found in counts.items() if name not in (PLAIN, AUTOCAST))
    print_closing_line(
        "engines, bf16", counts[PLAIN]["launches"], "launches", fewest, goal=GOAL, lower_is_better=True,
        provided=not counts[PLAIN]["waits"],
    )  # fmt: skip


if __name__ == "__main__":
    main()
