"""A program that runs short pieces of code on the fake accelerator of the benchmarks and prints their costs."""

import copy
import json
import os
import threading

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import torch
import torch.distributed as dist
import triton
import triton.language as tl
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import BertConfig

from cxml.config import ModelConfig
from cxml.data import Batch, BatchLimits
from cxml.model import build_model
from cxml.parallel import StepCheck
from cxml.parallel.plain_engine import PlainEngine
from cxml.tree import LabelTree, plan_splits
from support.fake_accelerator import counted, fake_accelerator, one_launch

PAIRS = 100


def calls(device):
    """Single calls, by name."""
    x = torch.arange(12.0).to(device).reshape(3, 4)
    mask, indices = x > 3, torch.arange(3, device=device)
    pinned, room = torch.ones(3).pin_memory(), torch.empty(3, 4, pin_memory=True)
    long, short = np.arange(PAIRS), np.arange(PAIRS - 1)
    weights = [torch.ones(3, device=device, requires_grad=True) for _ in range(5)]
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer = torch.optim.AdamW(weights, fused=True)
    optimizer.step()
    return {
        "item": x[0, 0].item,
        "int": lambda: int(x[0, 0]),
        "if": lambda: 1 if x[0, 0] else 0,
        "tolist": x.tolist,
        "cpu": x.cpu,
        "fetch": lambda: room.copy_(x, non_blocking=True),
        "nonzero": x.nonzero,
        "unique": x.unique,
        "masked": lambda: x[mask],
        "masked write": lambda: x.__setitem__(mask, x[0, 0]),
        "masked fill": lambda: x.__setitem__(mask, 0.0),
        "repeat": lambda: torch.repeat_interleave(x[0], indices.new_ones(4)),
        "repeat of known size": lambda: torch.repeat_interleave(x[0], indices.new_ones(4), output_size=4),
        "synchronize": torch.accelerator.synchronize,
        "event": lambda: torch.Event(device).synchronize(),
        "pageable": lambda: torch.ones(3).to(device, non_blocking=True),
        "made of a list": lambda: torch.tensor([1, 2], device=device),
        "indices of the host": lambda: x[torch.tensor([0, 1])],
        "pinned": lambda: pinned.to(device, non_blocking=True),
        "slice of pinned": lambda: pinned[1:].to(device, non_blocking=True),
        "pinned and waited for": lambda: pinned.to(device),
        "nothing to copy": lambda: torch.ones(0).to(device),
        "add": lambda: x + 1,
        "zeros": lambda: torch.zeros(3, device=device),
        "views": lambda: (x.t(), x[1:], x.view(-1), x.unsqueeze(0), x.detach(), x.split(1), torch.empty_like(x)),
        "copy on the device": lambda: x.t().contiguous(),
        "one number of the host": lambda: x * torch.tensor(2.0),
        "fused step": optimizer.step,
        "sort of pairs": lambda: np.argsort(long),
        "add at pairs": lambda: np.add.at(np.zeros(1), np.zeros(PAIRS, int), 1),
        "sort of less": lambda: np.unique(short),
        "pairs to torch": lambda: torch.from_numpy(long),
        "elsewhere": lambda: in_thread(lambda: (x.sum().item(), np.argsort(long))),
        "triton": lambda: _double[(1,)](x, 12, SIZE=16),
        "stand-in": lambda: stand_in(x),
    }


def in_thread(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


@triton.jit
def _double(numbers, count, SIZE: tl.constexpr):
    place = tl.arange(0, SIZE)
    tl.store(numbers + place, 2 * tl.load(numbers + place, mask=place < count), mask=place < count)


class Plain:
    """A plain implementation of a function that is one kernel on a real device."""

    def kernel(self, x):
        return x[x > 3].sum().item()


def stand_in(x):
    with one_launch(Plain, "kernel"):
        Plain().kernel(x)


def backward_apart(device):
    """The costs of a head behind an encoder, and of the same head on features without an encoder."""
    torch.manual_seed(0)
    encoder, head = Encoder().to(device), nn.Linear(4, 2).to(device)
    features = [feature.detach().requires_grad_() for feature in encoder(torch.ones(3, 4, device=device))]
    found = {}
    for name, made in (("with encoder", encoder), ("without encoder", lambda _: features)):
        inputs = torch.ones(3, 4, device=device)
        head.zero_grad()
        with counted(encoder=encoder) as counts:
            first, second = made(inputs)
            (head(first).relu().sum() + (second * head(second).mean()).sum()).backward()
        found[name] = counts.totals()
    return found


class Encoder(nn.Module):
    """Two layers, with the output of each."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x):
        first = self.layers[0](x).tanh()
        return [first, self.layers[1](first).exp()]


def collectives(device):
    """The results of collectives of four ranks with the same tensors."""
    dist.init_process_group("fake", store=FakeStore(), rank=1, world_size=4)
    x = torch.arange(8.0).to(device)
    summed, most, swapped = x.clone(), x.clone(), torch.zeros_like(x)
    everyone, own = torch.zeros(32, device=device), torch.zeros(2, device=device)
    with counted() as counts:
        dist.all_reduce(summed)
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        dist.all_to_all_single(swapped, x, [1, 3, 2, 2], [1, 3, 2, 2])
        dist.all_gather(list(everyone.chunk(4)), x)
        dist.reduce_scatter(own, list(x.chunk(4)))
    dist.destroy_process_group()
    named = {"summed": summed, "most": most, "swapped": swapped, "everyone": everyone, "own": own}
    return {name: tensor.tolist() for name, tensor in named.items()} | {"totals": counts.totals()}


def differences(device):
    """The largest differences of losses and weights between the host and the device, after three steps of training."""
    tree = LabelTree(np.arange(60, dtype=np.int32), plan_splits(60, (4, 12)).offsets)
    architecture = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    config = ModelConfig(projection_dropout=0.0, dropouts=(0.0,) * 3, shortlist_sizes=(2, 5))
    torch.manual_seed(0)
    model = build_model(config, tree, architecture)
    found = [train(copy.deepcopy(model).to(place), place) for place in (torch.device("cpu"), device)]
    return [max((a - b).abs().max().item() for a, b in zip(*each, strict=True)) for each in zip(*found, strict=True)]


def train(model, device):
    engine = PlainEngine(
        model, torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True), StepCheck(device),
        accumulation=1, clipping=1.0, is_bf16=False,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(3):
        batch = Batch(
            input_ids=torch.randint(50, (6, 7), generator=generator),
            attention_mask=torch.ones(6, 7, dtype=torch.int64),
            label_values=torch.randint(60, (6,), generator=generator),
            label_offsets=torch.arange(7),
            lengths=np.full(6, 7),
            global_size=6,
            limits=BatchLimits(texts=6, labels=6, labels_of_a_text=1),
        )
        loss, by_level = engine(batch.to(device))
        engine.backward(loss / 6)
        engine.step()
        losses.append(by_level.cpu())
    return losses, [parameter.detach().cpu() for parameter in model.parameters()]


def main():
    with fake_accelerator() as device:
        found = {}
        for name, call in calls(device).items():
            with counted(pairs=PAIRS) as counts:
                call()
            found[name] = {kind: number for kind, number in counts.totals().items() if number}
            assert not any(place.startswith("fake_accelerator.py") for each in vars(counts).values() for place in each)
        others = {"apart": backward_apart(device), "together": collectives(device), "differences": differences(device)}
        others["is_available"] = [torch.accelerator.is_available()]
    others["is_available"].append(torch.accelerator.is_available())
    print(json.dumps({"calls": found, **others}))


if __name__ == "__main__":
    main()
