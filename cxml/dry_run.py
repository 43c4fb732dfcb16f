"""What a run would do: its plan, bytes per rank, steps and time, from the real data and a few timed steps."""

from __future__ import annotations

import time

import torch
from rich.console import Console

from cxml.accelerators import device_name, device_of, synchronize
from cxml.config import Config
from cxml.model import build_encoder, read_encoder_config
from cxml.parallel import Plan
from cxml.run_plan import plan_run, require_packages, texts_per_micro_batch
from cxml.tree import fit_levels

_TIMED_STEPS = 3


def dry_run(config: Config) -> Plan:
    """Check the config against its data and encoder, print the plan and an estimate of the time, and write nothing.

    Raises:
        CxmlError: whatever would also stop the run: broken data, an unknown encoder, more clusters than labels.
    """
    require_packages(config)
    plan, facts = plan_run(config)
    console = Console()
    console.print(plan.table())
    console.print(
        f"{facts.num_texts:,} texts, {facts.num_labels:,} labels, batches about {facts.padded_length} tokens wide"
    )
    config = fit_levels(config, facts.num_labels)
    seconds = _seconds_per_text(config, facts.padded_length) * facts.num_texts * config.train.epochs
    console.print(
        f"Estimate: {_spoken(seconds / config.train.num_workers)} of training, if every process has a device like this "
        f"one ({device_name(device_of(0))}), from timed steps of the encoder; label heads, data preparation and the "
        "tree come on top."
    )
    return plan


def _seconds_per_text(config: Config, length: int) -> float:
    """Forward and backward of the encoder on random tokens, on the device and in the precision of a training.

    A random encoder takes as long as a pretrained one.
    """
    torch.set_num_threads(config.train.threads_per_worker or torch.get_num_threads())
    device = device_of(0)
    encoder = build_encoder(config.model, config.num_levels, read_encoder_config(config.model)).to(device)
    if config.train.precision == "bf16":
        encoder.bfloat16()
    if config.train.compile:
        encoder.compile_layers(device, recompute=config.train.activation_checkpointing)
    elif config.train.activation_checkpointing:
        encoder.recompute_activations()
    size = texts_per_micro_batch(config)
    input_ids = torch.randint(encoder.transformer.config.vocab_size, (size, length), device=device)
    times = []
    for _ in range(_TIMED_STEPS + 1):
        began = time.perf_counter()
        features = encoder(input_ids, torch.ones_like(input_ids))
        total = torch.stack([feature.sum() for feature in features]).sum()
        total.backward()
        synchronize(device)  # it computes while Python goes on
        times.append(time.perf_counter() - began)
    return sorted(times[1:])[_TIMED_STEPS // 2] / size


def _spoken(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
