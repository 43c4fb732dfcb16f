"""One optimiser step."""

from __future__ import annotations

from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor

from cxml.data import Batch
from cxml.model import CascadeXML
from cxml.parallel import Engine, Ranks, take_step


def train_step(engine: Engine, micro_batches: list[Batch], ranks: Ranks, step: int = 0) -> Tensor:
    """Forward, backward and update on this rank's micro-batches of one step; a collective call.

    The loss is scaled so that the gradient is that of the mean over the texts of the whole step, for any division into
    micro-batches.

    On an accelerator the host does not wait here; it reads results with the next record.

    Args:
        engine: the engine of the model.
        micro_batches: this rank's micro-batches, already on its device.
        ranks: the ranks of this process.
        step: the number of this step, from 1, for errors.

    Returns:
        This rank's share of each level's mean loss, float32 [levels] on the ranks' device; the shares of all ranks sum
        to the mean. Zeros if the step was skipped, see `cxml.parallel.StepCheck`.

    Raises:
        DivergenceError: three consecutive steps were skipped; on CPUs only, elsewhere `StepCheck.report` raises it.
    """
    model = cast(CascadeXML, engine.module)
    level_losses, is_finite, everywhere = None, None, None
    for number, batch in enumerate(micro_batches, start=1):
        total, by_level = engine(batch.to(ranks.device))
        engine.backward(total * (engine.averages_over / batch.global_size))
        own_losses = by_level / batch.global_size
        level_losses = own_losses if level_losses is None else level_losses + own_losses
        if number == len(micro_batches):
            everywhere = _all_losses(level_losses, model.is_bounded(), ranks)
            is_finite = engine.step_check.check(everywhere)
        is_finite = take_step(engine, is_finite)
    assert is_finite is not None, "a step has a micro-batch"
    assert everywhere is not None, "a step has a last micro-batch"
    assert level_losses is not None, "a step has a micro-batch"
    model.finish_step(is_finite)
    return engine.step_check.count(step, everywhere[:-1], level_losses, is_finite)


def _all_losses(level_losses: Tensor, is_bounded: Tensor | None, ranks: Ranks) -> Tensor:
    """The levels' mean losses over all ranks, then minus infinity if an update is not bounded, else 0.

    float32 [levels + 1].
    """
    if is_bounded is None:
        losses = torch.nn.functional.pad(level_losses, (0, 1))
    else:
        losses = torch.cat([level_losses, is_bounded[None].log()])  # few launches: log(1) is 0
    if ranks.world_size > 1:
        dist.all_reduce(losses)
    return losses
