"""Private parts of DeepSpeed: its table of extensions, and the storage of ZeRO's weights.

DeepSpeed takes seconds to import, so functions import it when they are called.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

from torch import Tensor, nn

SEEN_IN = "0.19.8"
NAMES = (
    "deepspeed.ops.__compatible_ops__",
    "deepspeed.runtime.zero.stage_1_and_2.DeepSpeedZeroOptimizer.update_lp_params",
    "deepspeed.runtime.zero.stage3:fp32_partitioned_groups_flat",
    "deepspeed.runtime.zero.partition_parameters:ds_id",
    "deepspeed.runtime.zero.partition_parameters:ds_numel",
    "deepspeed.runtime.zero.partition_parameters:ds_persist",
    "deepspeed.runtime.zero.partition_parameters:ds_tensor",
    "deepspeed.runtime.zero.partition_parameters:all_gather",
    "deepspeed.runtime.zero.partition_parameters:partition",
)


def without_extensions() -> None:
    """Prevent DeepSpeed from compiling an extension for collectives on CPUs, which only inference uses.

    It would need a C++ compiler, and a process killed during the build leaves a lock that blocks all later processes.
    """
    import deepspeed  # noqa: PLC0415 - seconds

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def is_partitioned(parameter: nn.Parameter) -> bool:
    """Whether ZeRO-3 has partitioned this parameter over the ranks."""
    return hasattr(parameter, "ds_id")


def whole(parameter: nn.Parameter) -> AbstractContextManager[object]:
    """Within this context the parameter is whole. If ZeRO-3 has partitioned it, this is a collective call."""
    if not is_partitioned(parameter):
        return nullcontext()
    import deepspeed  # noqa: PLC0415 - seconds

    return deepspeed.zero.GatheredParameters([parameter])


def partition_of(parameter: nn.Parameter) -> tuple[Tensor, int]:
    """This rank's part of a parameter under ZeRO-3, 1-D and padded at the end, and the parameter's element count."""
    partitioned = cast(Any, parameter)
    return partitioned.ds_tensor.detach().view(-1), partitioned.ds_numel


def flat_groups(optimizer: Any) -> Sequence[Tensor]:  # noqa: ANN401 - DeepSpeed's
    """The tensors that AdamW updates under ZeRO-3: this rank's flat fp32 parts of the weights, by group."""
    return optimizer.fp32_partitioned_groups_flat


def update_weights(optimizer: Any) -> None:  # noqa: ANN401 - DeepSpeed's
    """Recompute the model's weights from the fp32 parts of all ranks under ZeRO-1 and ZeRO-2."""
    optimizer.update_lp_params()


def update_partitions(weights: Sequence[nn.Parameter]) -> None:
    """`update_weights` under ZeRO-3."""
    from deepspeed.utils import safe_get_local_fp32_param  # noqa: PLC0415 - seconds

    partitioned = [cast(Any, weight) for weight in weights]
    for weight in partitioned:
        weight.ds_tensor.data.copy_(safe_get_local_fp32_param(weight).detach())
    small = [weight for weight in partitioned if weight.ds_persist]  # kept whole on every rank
    if small:
        small[0].partition(small)
        small[0].all_gather(small)
