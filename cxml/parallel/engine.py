"""The DeepSpeed engine around the model: ZeRO, precision, accumulation and clipping by config."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from cxml import extras
from cxml.config import OptimConfig, TrainConfig
from cxml.optim import parameter_groups
from cxml.parallel.process_group import Ranks

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


def build_engine(model: nn.Module, train: TrainConfig, optim: OptimConfig, ranks: Ranks) -> DeepSpeedEngine:
    """Wrap `model` in a DeepSpeed engine with AdamW. The process group must exist.

    The engine averages gradients over ranks and micro-batches, so a loss that is a sum over texts is scaled by
    `world_size * accumulation / texts of the step` before `engine.backward`.

    Raises:
        ConfigError: DeepSpeed is not installed.
    """
    extras.require("cxml.train", "the training", "deepspeed")
    import deepspeed  # noqa: PLC0415  it reads the process environment and takes seconds to import

    # Used in inference alone. It would need a C++ compiler, and a process killed while it is built leaves a lock behind
    # that every later one waits for, for ever.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # Torch's own AdamW, so that no extension has to be compiled; fused, it visits a weight once instead of ten times.
    optimizer = torch.optim.AdamW(
        parameter_groups(model, optim), betas=(optim.beta1_high, optim.beta2), eps=optim.epsilon, fused=True
    )
    engine, *_ = deepspeed.initialize(
        model=model.to(ranks.device),
        optimizer=optimizer,
        config=engine_config(train, ranks.world_size),
        dist_init_required=False,
    )
    if ranks.world_size == 1 and train.zero_stage == 0:
        engine.enable_backward_allreduce = False  # with nobody to share with, it would copy every gradient twice
    return engine


def engine_config(train: TrainConfig, world_size: int) -> dict[str, Any]:
    """DeepSpeed's configuration for these settings."""
    return {
        "train_micro_batch_size_per_gpu": math.ceil(train.batch_size / (world_size * train.accumulation)),
        "gradient_accumulation_steps": train.accumulation,
        "gradient_clipping": train.gradient_clipping,
        "zero_optimization": {"stage": train.zero_stage},
        "bf16": {"enabled": train.precision == "bf16"},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }


def gathered_state_dict(engine: DeepSpeedEngine, ranks: Ranks) -> dict[str, Tensor]:
    """The whole model's weights on the CPU of rank 0 (an empty dict elsewhere), whatever the ZeRO stage.

    A collective call. Under ZeRO-3 one parameter at a time is gathered.
    """
    import deepspeed  # noqa: PLC0415

    tensors: dict[str, Tensor] = {}
    for name, parameter in cast(nn.Module, engine.module).named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
            if ranks.is_first:
                tensors[name] = parameter.detach().to("cpu", copy=True)
    return tensors
