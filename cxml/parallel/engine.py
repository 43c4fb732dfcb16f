"""The engine around the model: ZeRO, precision, accumulation and clipping by config."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from cxml import extras
from cxml.config import OptimConfig, TrainConfig
from cxml.optim import parameter_groups
from cxml.parallel.clipping import clip_gradients
from cxml.parallel.plain_engine import PlainEngine
from cxml.parallel.process_group import Ranks
from cxml.parallel.step_check import StepCheck

_log = logging.getLogger(__name__)


class Engine(Protocol):
    """What training needs of the engine around the model: DeepSpeed's, or `PlainEngine`.

    Attributes:
        module: the model.
        basic_optimizer: torch's AdamW.
        optimizer: what updates the model: AdamW, or a wrapper of it.
        step_check: counts the steps whose numbers are not finite.
    """

    step_check: StepCheck
    module: nn.Module
    basic_optimizer: Any
    optimizer: Any

    def __call__(self, *inputs: Any, **options: Any) -> Any:  # noqa: ANN401 - the model's own
        """The model's outputs."""
        ...

    def backward(self, loss: Tensor) -> object:
        """Add the gradient of a loss, divided by the number of micro-batches of a step."""
        ...

    def step(self) -> object:
        """End a micro-batch, and with the last of a step update the weights; see `take_step`."""
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
        """Let the model train: dropout is on."""
        ...

    def eval(self) -> object:
        """Let the model predict: dropout is off."""
        ...


def build_engine(model: nn.Module, train: TrainConfig, optim: OptimConfig, ranks: Ranks) -> Engine:
    """Wrap `model` in an engine with AdamW: DeepSpeed's, or a plain one where one process trains without DeepSpeed.

    The process group must exist.

    The engine averages gradients over ranks and micro-batches, so a loss that is a sum over texts is scaled by
    `world_size * accumulation / texts of the step` before `engine.backward`.

    Raises:
        ConfigError: several processes train, and DeepSpeed is not installed.
    """
    require_engine(ranks.world_size)
    # Torch's own AdamW, so that no extension has to be compiled; fused, it visits a weight once instead of ten times.
    optimizer = torch.optim.AdamW(
        parameter_groups(model.to(ranks.device), optim),
        betas=(optim.beta1_high, optim.beta2), eps=optim.epsilon, fused=True,
    )  # fmt: skip
    if not extras.is_installed("deepspeed"):
        _log.info("DeepSpeed is not installed: one process trains in plain PyTorch; train.zero_stage changes nothing")
        return PlainEngine(
            model, optimizer, StepCheck(ranks.device),
            accumulation=train.accumulation, clipping=train.gradient_clipping, is_bf16=train.precision == "bf16",
        )  # fmt: skip
    import deepspeed  # noqa: PLC0415  it reads the process environment and takes seconds to import

    # Used in inference alone. It would need a C++ compiler, and a process killed while it is built leaves a lock behind
    # that every later one waits for, for ever.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    with _no_step_counted(optimizer):
        engine, *_ = deepspeed.initialize(
            model=model,
            optimizer=optimizer,
            config=engine_config(train, ranks.world_size),
            dist_init_required=False,
        )
    if engine.optimizer is optimizer:  # the wrappers check it themselves
        check = functools.partial(_clip_and_check, module=model, largest=train.gradient_clipping)
        optimizer.register_step_pre_hook(check)
    if ranks.world_size == 1 and train.zero_stage == 0:
        engine.enable_backward_allreduce = False  # with nobody to share with, it would copy every gradient twice
    ours = cast(Engine, engine)
    ours.step_check = StepCheck(ranks.device)
    return ours


def take_step(engine: Engine, is_sound: Tensor | None) -> Tensor | None:
    """End a micro-batch, and with the last of a step update the weights, if the step is sound.

    Torch's fused AdamW leaves weights, moments and its count of steps as they are where its `found_inf` is not 0, which
    it reads where the weights are.

    Args:
        engine: whose micro-batch ends.
        is_sound: whether the step may count, bool [], alike on all ranks; None if this is not its last micro-batch.

    Returns:
        Whether the weights were updated, bool []: the gradients have to be finite too. None if there was no update.
    """
    optimizer = engine.basic_optimizer
    if is_sound is not None:
        is_unsound = torch.empty((), device=is_sound.device)
        optimizer.grad_scale, optimizer.found_inf = None, torch.logical_not(is_sound, out=is_unsound)
    engine.step()
    if is_sound is None:
        return None
    is_applied = optimizer.found_inf == 0
    return is_applied if engine.was_step_applied() else torch.zeros_like(is_applied)


@contextmanager
def _no_step_counted(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Steps taken within this context leave weights and step counts as they were.

    DeepSpeed's wrapper for bf16 without ZeRO takes one to allocate AdamW's state: the weights decayed, and every later
    step had the bias correction of the next.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    yield
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    for state in optimizer.state.values():
        state["step"].zero_()


def _clip_and_check(
    optimizer: Any,  # noqa: ANN401 - AdamW, see `take_step`
    *_: object,
    module: nn.Module,
    largest: float,
) -> None:
    """Clip gradients, and let a step change no weight if one is not finite; all ranks hold the same sums.

    DeepSpeed's own clipping makes the host wait for an accelerator, and forgets the norm.
    """
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    if gradients and hasattr(optimizer, "found_inf"):
        norm = clip_gradients(gradients, largest)
        optimizer._global_grad_norm = norm  # where `get_global_grad_norm` looks for it
        optimizer.found_inf = torch.maximum(optimizer.found_inf, (~norm.isfinite()).float())


def require_engine(num_processes: int) -> None:
    """Refuse a training of several processes where DeepSpeed is not installed.

    Raises:
        ConfigError: it is not; names the `pip install` that brings it.
    """
    if num_processes > 1:
        extras.require("train.num_workers", num_processes, "deepspeed", otherwise="set it to 1")


def engine_config(train: TrainConfig, world_size: int) -> dict[str, Any]:
    """DeepSpeed's configuration for these settings."""
    return {
        "train_micro_batch_size_per_gpu": math.ceil(train.batch_size / (world_size * train.accumulation)),
        "gradient_accumulation_steps": train.accumulation,
        "gradient_clipping": 0.0 if train.zero_stage == 0 and train.precision == "fp32" else train.gradient_clipping,
        "zero_optimization": {"stage": train.zero_stage},
        "bf16": {"enabled": train.precision == "bf16"},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
    }


def gathered_state_dict(engine: Engine, ranks: Ranks) -> dict[str, Tensor]:
    """The whole model's weights on the CPU of rank 0 (an empty dict elsewhere), whatever the ZeRO stage.

    A collective call. Under ZeRO-3 one parameter at a time is gathered.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in engine.module.named_parameters():
        with _whole(parameter):
            if ranks.is_first:
                tensors[name] = parameter.detach().to("cpu", copy=True)
    return tensors


def _whole(parameter: nn.Parameter) -> AbstractContextManager[object]:
    """Within this context the parameter is whole, also where ZeRO-3 has partitioned it."""
    if not hasattr(parameter, "ds_id"):
        return nullcontext()
    import deepspeed  # noqa: PLC0415

    return deepspeed.zero.GatheredParameters([parameter])
