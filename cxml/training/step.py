"""One optimiser step."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from cxml.data import Batch
from cxml.model import CascadeXML
from cxml.parallel import Ranks

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine


def train_step(engine: DeepSpeedEngine, micro_batches: list[Batch], ranks: Ranks) -> Tensor:
    """Forward, backward and update on this rank's micro-batches of one step.

    The engine averages over ranks and micro-batches; scaling by their number over the texts of the whole step makes
    the gradient that of the mean over those texts, however they are cut.

    Returns:
        This rank's share of each level's mean loss, float32 [levels]; the shares of all ranks add up to it.
    """
    level_losses = torch.zeros(())
    for batch in micro_batches:
        total, by_level = engine(batch.to(ranks.device))
        engine.backward(total * (ranks.world_size * len(micro_batches) / batch.global_size))
        engine.step()
        level_losses = level_losses + by_level.cpu() / batch.global_size
    cast(CascadeXML, engine.module).label_head.finish_step()
    return level_losses
