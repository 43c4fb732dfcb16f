"""The training engine: ZeRO, precision, accumulation and clipping according to the config."""

from __future__ import annotations

import logging
import math
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from cxml import extras
from cxml.config import OptimConfig, TrainConfig
from cxml.internals.deepspeed import whole, without_extensions
from cxml.optim import parameter_groups
from cxml.parallel.gradient_buckets import BUCKET_ELEMENTS
from cxml.parallel.plain_engine import PlainEngine
from cxml.parallel.process_group import Ranks
from cxml.parallel.step_check import StepCheck

_log = logging.getLogger(__name__)


class Engine(Protocol):
    """The interface of the training engine: DeepSpeed's, or `PlainEngine`.

    Attributes:
        module: the model.
        basic_optimizer: torch's AdamW.
        optimizer: AdamW, or a wrapper of it.
        trained: the trained weights by parameter group of AdamW, which may hold parts or copies of them instead.
        step_check: counts the steps that are not finite.
        averages_over: divisor of the sum of all gradients of a step.
    """

    step_check: StepCheck
    averages_over: int
    module: nn.Module
    basic_optimizer: Any
    optimizer: Any
    trained: list[list[nn.Parameter]]

    def __call__(self, *inputs: Any, **options: Any) -> Any:  # noqa: ANN401 - the model's own
        """The model's outputs."""
        ...

    def backward(self, loss: Tensor) -> object:
        """Add the gradient of a scalar loss; the update uses the sum over a step divided by `averages_over`."""
        ...

    def step(self) -> object:
        """End a micro-batch; after the last of a step, update the weights; see `take_step`."""
        ...

    def was_step_applied(self) -> bool:
        """Whether the last step updated the weights."""
        ...

    def get_global_grad_norm(self) -> Tensor | float | None:
        """The norm of the last step's gradient before it was clipped; None if there is none."""
        ...

    def zero_optimization_stage(self) -> int:
        """The stage of ZeRO."""
        ...

    def train(self) -> object:
        """Set training mode, with dropout."""
        ...

    def eval(self) -> object:
        """Set evaluation mode, without dropout."""
        ...


def build_engine(model: nn.Module, train: TrainConfig, optim: OptimConfig, ranks: Ranks) -> Engine:
    """Wrap `model` in an engine with AdamW: DeepSpeed's for ZeRO stages from 1 on, else a plain one.

    A frozen encoder whose classifiers are all sharded rows leaves ZeRO no state to partition, so the engine is plain.

    The process group must exist.

    Scale a loss summed over texts by `engine.averages_over / texts of the step` before `engine.backward`.

    Raises:
        ConfigError: several processes need partitioning, but DeepSpeed is not installed.
    """
    require_engine(train.zero_stage, ranks.world_size)
    # Torch's AdamW needs no compiled extension; fused, it visits a weight once instead of ten times.
    optimizer = torch.optim.AdamW(
        parameter_groups(model.to(ranks.device), optim),
        betas=(optim.beta1_high, optim.beta2), eps=optim.epsilon, fused=True,
    )  # fmt: skip
    has_state = any(group["params"] for group in optimizer.param_groups)
    if train.zero_stage and has_state and extras.is_installed("deepspeed"):
        return _deepspeed_engine(model, optimizer, train, ranks)
    if train.zero_stage and has_state:
        _log.info("DeepSpeed is not installed: training one process in plain PyTorch; train.zero_stage has no effect")
    return PlainEngine(
        model, optimizer, StepCheck(ranks.device), accumulation=train.accumulation, clipping=train.gradient_clipping,
        is_bf16=train.precision == "bf16", world_size=ranks.world_size,
    )  # fmt: skip


def _deepspeed_engine(model: nn.Module, optimizer: torch.optim.Optimizer, train: TrainConfig, ranks: Ranks) -> Engine:
    import deepspeed  # noqa: PLC0415  it reads the process environment and takes seconds to import

    without_extensions()
    trained = [list(group["params"]) for group in optimizer.param_groups]
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        config=engine_config(train, ranks.world_size),
        dist_init_required=False,
    )
    ours = cast(Engine, engine)
    ours.step_check, ours.trained = StepCheck(ranks.device), trained
    ours.averages_over = ranks.world_size * train.accumulation
    return ours


def take_step(engine: Engine, is_finite: Tensor | None) -> Tensor | None:
    """End a micro-batch. After the last one of a step, update the weights if the step is sound.

    If `found_inf` is not 0, torch's fused AdamW changes neither weights nor moments nor its step count. It reads
    `found_inf` on the device of the weights.

    Args:
        engine: the engine of the micro-batch.
        is_finite: whether the step may count, bool [], equal on all ranks; None if this is not its last micro-batch.

    Returns:
        Whether the weights were updated, bool [], which also requires finite gradients. None before the end of a step.
    """
    optimizer = engine.basic_optimizer
    if is_finite is not None:
        is_unsound = torch.empty((), device=is_finite.device)
        optimizer.grad_scale, optimizer.found_inf = None, torch.logical_not(is_finite, out=is_unsound)
    engine.step()
    if is_finite is None:
        return None
    is_applied = optimizer.found_inf == 0
    return is_applied if engine.was_step_applied() else torch.zeros_like(is_applied)


def require_engine(zero_stage: int, num_processes: int) -> None:
    """Check that DeepSpeed is installed if several processes need partitioning.

    Raises:
        ConfigError: DeepSpeed is missing; names the `pip install` command.
    """
    if zero_stage and num_processes > 1:
        extras.require("train.zero_stage", zero_stage, "deepspeed", otherwise="set it to 0")


def engine_config(train: TrainConfig, world_size: int) -> dict[str, Any]:
    """DeepSpeed's configuration for these settings."""
    is_bf16 = train.precision == "bf16"
    settings = {
        "train_micro_batch_size_per_gpu": math.ceil(train.batch_size / (world_size * train.accumulation)),
        "gradient_accumulation_steps": train.accumulation,
        "gradient_clipping": train.gradient_clipping,
        # By default buckets have 500 million elements, for which it sets memory aside whatever the model's size.
        "zero_optimization": {"stage": train.zero_stage, "overlap_comm": True, "reduce_bucket_size": BUCKET_ELEMENTS},
        "bf16": {"enabled": is_bf16},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
        "timers": {"throughput": {"enabled": False}},  # it waits for the device twice a step
    }
    in_fp32 = {"data_types": {"grad_accum_dtype": "fp32"}, "communication_data_type": "fp32"}
    return settings | in_fp32 if is_bf16 else settings


def gathered_state_dict(engine: Engine, ranks: Ranks) -> dict[str, Tensor]:
    """The whole model's weights on the CPU of rank 0 (an empty dict elsewhere), for every ZeRO stage.

    A collective call. Under ZeRO-3 one parameter at a time is gathered.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in engine.module.named_parameters():
        with whole(parameter):
            if ranks.is_first:
                tensors[name] = parameter.detach().to("cpu", copy=True)
    return tensors
