"""Preview of a run: plan, bytes per rank, steps and time, from the real data and a few timed steps."""

from __future__ import annotations

import math
import time

import torch
from rich.console import Console

from cxml.accelerators import device_name, device_of, synchronize
from cxml.config import Config
from cxml.console import counted
from cxml.data import window_rule
from cxml.errors import ConfigError
from cxml.model import build_encoder, read_encoder_config
from cxml.parallel import Plan
from cxml.pipeline.checks import check_run
from cxml.pipeline.plan import (
    DataFacts,
    evidence_bytes,
    plan_for,
    plan_run,
    rows_of_text,
    with_one_more,
)
from cxml.pipeline.resolved_config import preview_settings
from cxml.settings import choices_table
from cxml.training import precision_here
from cxml.tree import fit_levels

_TIMED_STEPS = 3
_LINK = 10e9  # bytes per second of a 100 Gbit/s network card; NVLink within a machine is at least ten times faster


def dry_run(config: Config) -> Plan:
    """Check the config against its data and encoder, and print the plan and an estimate of the time. Writes nothing.

    Raises:
        CxmlError: an error that would also stop the run: broken data, an unknown encoder, more clusters than labels.
    """
    check_run(config)
    console = Console()
    config, choices = preview_settings(config)
    if choices:
        console.print(choices_table(choices))
    plan, facts = plan_run(config)
    console.print(plan.table())
    width = round(plan.steps.width)
    sizes = counted(facts.num_texts, "text"), counted(facts.num_labels, "label")
    console.print(f"{', '.join(sizes)}, batches about {counted(width, 'token')} wide")
    console.print(_one_more(config, plan, facts))
    sizes = evidence_bytes(config)
    for name in config.evidence.sources:
        size = sizes.get(name)
        known = "size known after preparation" if size is None else f"at most about {math.ceil(size / 2**20):,} MiB"
        console.print(f"Evidence {name}: {known}, in each process that predicts and on disk")
    config = precision_here(fit_levels(config, facts.num_labels))
    rows, length = rows_of_text(width, window_rule(config))
    if rows > 1:
        console.print(f"The encoder reads a text of this width in {rows} windows of {length} tokens")
    seconds = rows * _seconds_per_row(config, rows * plan.steps.texts, length) * facts.num_texts * config.train.epochs
    console.print(
        f"Estimated training time: {_duration(seconds / config.train.num_workers)}, from timed steps of the encoder on "
        f"this device ({device_name(device_of(0))}), if every process has one like it. Label heads, data preparation "
        "and the tree take additional time."
    )
    return plan


def _one_more(config: Config, plan: Plan, facts: DataFacts) -> str:
    """The effect of one more process, computed from sizes only."""
    try:
        larger = with_one_more(config)
    except ConfigError as error:
        return f"No room for one more process: {error}"
    more = plan_for(larger, facts)
    memory = [f"{each.bytes_per_rank / 2**20:,.0f}" for each in (more, plan)]
    rates = [_texts_per_second(each) for each in (more, plan)]
    return (
        f"With {more.world_size} processes instead of {plan.world_size}: {memory[0]} MiB per rank instead of "
        f"{memory[1]}{'' if plan.activations else ' (without activations)'}, "
        f"{counted(more.steps.texts, 'text')} in a micro-batch instead of {plan.steps.texts}. "
        f"On accelerators, a network of {_LINK / 1e9:.0f} GB/s per process limits training to {rates[0]} "
        f"(now: {rates[1]})."
    )


def _texts_per_second(plan: Plan) -> str:
    """The upper bound from the links between accelerators."""
    texts = plan.steps.texts * plan.accumulation * plan.world_size
    return f"{texts * _LINK / sent:,.0f} texts/s" if (sent := plan.sent(padded=True)) else "no limit"


def _seconds_per_row(config: Config, size: int, length: int) -> float:
    """Time of the encoder's forward and backward pass on random tokens, on the device and in the precision of training.

    A randomly initialised encoder takes as long as a pretrained one.
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
    input_ids = torch.randint(encoder.transformer.config.vocab_size, (size, length), device=device)
    times = []
    for _ in range(_TIMED_STEPS + 1):
        began = time.perf_counter()
        features = encoder(input_ids, torch.ones_like(input_ids))
        total = torch.stack([feature.sum() for feature in features]).sum()
        total.backward()
        synchronize(device)  # accelerators compute asynchronously
        times.append(time.perf_counter() - began)
    return sorted(times[1:])[_TIMED_STEPS // 2] / size


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
