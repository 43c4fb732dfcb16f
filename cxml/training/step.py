"""One optimiser step."""

from __future__ import annotations

from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor

from cxml.data import Batch
from cxml.errors import DivergenceError
from cxml.model import CascadeXML
from cxml.parallel import Engine, Ranks

_REMEDY = (
    "Lower optim.encoder_lr, optim.classifier_lr and, if set, head.learning_rate, and train again. If this is the "
    "first step, check the weights that training starts from: model.encoder and model.start_from. No checkpoint holds "
    "this step."
)


def train_step(engine: Engine, micro_batches: list[Batch], ranks: Ranks, step: int = 0) -> Tensor:
    """Forward, backward and update on this rank's micro-batches of one step; a collective call.

    The engine averages over ranks and micro-batches; scaling by their number over the texts of the whole step makes
    the gradient that of the mean over those texts, however they are cut.

    Args:
        engine: around the model.
        micro_batches: this rank's.
        ranks: this process's place.
        step: the number of this step, from 1, for errors.

    Returns:
        This rank's share of each level's mean loss, float32 [levels]; the shares of all ranks add up to it.

    Raises:
        DivergenceError: losses or gradients of any rank are not finite; on all ranks alike, before the update.
    """
    level_losses, is_applied = torch.zeros(()), False
    for number, batch in enumerate(micro_batches, start=1):
        total, by_level = engine(batch.to(ranks.device))
        engine.backward(total * (ranks.world_size * len(micro_batches) / batch.global_size))
        level_losses = level_losses + by_level.cpu() / batch.global_size
        if number == len(micro_batches):
            _require_finite(level_losses, ranks, step)
        is_applied = _take_step(engine)
    if not is_applied:
        raise DivergenceError(f"The gradients of step {step} are not finite, so no weight changed. {_REMEDY}")
    cast(CascadeXML, engine.module).label_head.finish_step(torch.tensor(True))
    return level_losses


def _take_step(engine: Engine) -> bool:
    """End a micro-batch; whether the weights were updated, if it was the last."""
    try:
        engine.step()
    except FloatingPointError:
        return False
    return engine.was_step_applied()


def _require_finite(level_losses: Tensor, ranks: Ranks, step: int) -> None:
    everywhere = level_losses.to(ranks.device, copy=True)
    dist.all_reduce(everywhere)
    if everywhere.isfinite().all():
        return
    *clusters, labels = everywhere.tolist()
    by_level = [f"level {level} {loss:.4g}" for level, loss in enumerate(clusters)] + [f"labels {labels:.4g}"]
    raise DivergenceError(
        f"The loss or the update of step {step} is not finite: losses are {', '.join(by_level)}. {_REMEDY}"
    )
