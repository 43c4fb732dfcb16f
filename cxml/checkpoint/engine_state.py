"""Weights and optimiser state of a DeepSpeed engine as pieces of global tensors, for every ZeRO stage.

Each ZeRO stage keeps fp32 weights and AdamW's moments in flat buffers with its own partitioning over the ranks. A
`ParameterShard` locates a part of a parameter in this rank's buffers. Saving and loading copy between shards and
pieces, so a checkpoint of one stage can be loaded with another.

    model/NAME                  weights, fp32 where they are trained
    optimizer/exp_avg/NAME      AdamW's first moment
    optimizer/exp_avg_sq/NAME   its second moment
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from cxml.checkpoint.pieces import Pieces, balanced_owners
from cxml.internals.deepspeed import flat_groups, is_partitioned, partition_of, update_partitions, update_weights
from cxml.parallel import Engine, Ranks
from cxml.parallel.plain_engine import Fp32Copies

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, eq=False)
class ParameterShard:
    """The part of a parameter in this rank's memory.

    Attributes:
        name: name of the parameter.
        numel: elements of the whole parameter.
        start: offset of the part in the flattened parameter.
        weights: the part, 1-D, as a view of the engine's memory.
        moments: AdamW's state of the part by name, 1-D; empty for frozen parameters.
        is_replicated: whether every rank holds the same part.
    """

    name: str
    numel: int
    start: int
    weights: Tensor
    moments: dict[str, Tensor]
    is_replicated: bool

    def pieces(self) -> dict[str, Pieces]:
        """The part as pieces by tensor name, as views of the engine's memory."""
        found = {f"model/{self.name}": Pieces.cut(self.numel, self.start, self.weights)}
        for moment, values in self.moments.items():
            found[f"optimizer/{moment}/{self.name}"] = Pieces.cut(self.numel, self.start, values)
        return found


def parameter_shards(engine: Engine, ranks: Ranks) -> list[ParameterShard]:
    """This rank's parts of the parameters, in an order that all ranks share."""
    names = {parameter: name for name, parameter in cast(nn.Module, engine.module).named_parameters()}
    shards = [*_trained_shards(engine, names, ranks), *_frozen_shards(names, ranks)]
    return [shard for shard in shards if len(shard.weights)]


def pieces_to_save(shards: list[ParameterShard], ranks: Ranks) -> dict[str, Pieces]:
    """The pieces that this rank writes, as views: its own parts, and its share of the replicated ones."""
    replicated = [shard for shard in shards if shard.is_replicated]
    owners = balanced_owners((len(shard.weights) for shard in replicated), ranks.world_size)
    mine = [shard for shard, owner in zip(replicated, owners, strict=True) if owner == ranks.rank]
    mine += [shard for shard in shards if not shard.is_replicated]
    return {name: pieces for shard in mine for name, pieces in shard.pieces().items()}


def pieces_to_load(shards: list[ParameterShard]) -> dict[str, Pieces]:
    """The pieces to fill in place."""
    return {name: pieces for shard in shards for name, pieces in shard.pieces().items()}


def optimizer_step(engine: Engine) -> int:
    """Number of updates of the engine's AdamW."""
    return max((int(state["step"]) for state in _inner(engine).state.values()), default=0)


def finish_loading(engine: Engine, step: int) -> None:
    """Complete a load into the shards: set AdamW's count, and recompute the weights from their fp32 copies.

    A collective call.
    """
    for state in _inner(engine).state.values():
        state["step"].fill_(step)
    match engine.zero_optimization_stage():
        case 0 if isinstance(engine.optimizer, Fp32Copies):
            engine.optimizer.update_weights()
        case 1 | 2:
            update_weights(engine.optimizer)
        case 3:
            update_partitions([weight for group in engine.trained for weight in group])


def _trained_shards(engine: Engine, names: dict[nn.Parameter, str], ranks: Ranks) -> Iterator[ParameterShard]:
    match engine.zero_optimization_stage():
        case 0:
            copies = engine.optimizer.copies if isinstance(engine.optimizer, Fp32Copies) else {}
            for weight in (weight for group in engine.trained for weight in group):
                holder = copies.get(weight, weight)
                state = _state_of(engine, holder)
                yield _shard(names[weight], weight.numel(), 0, holder, state, is_replicated=True)
        case 1 | 2:
            yield from _cut_shards(engine, names, ranks)
        case 3:
            yield from _zero3_shards(engine, names, ranks)


def _cut_shards(engine: Engine, names: dict[nn.Parameter, str], ranks: Ranks) -> Iterator[ParameterShard]:
    """The shards under ZeRO-1 and ZeRO-2.

    Each group's weights are concatenated and split into equal parts; AdamW has this rank's part. DeepSpeed's
    `safe_get_full_fp32_param` would gather every weight on every rank, and has no moments before the first step.
    """
    for weights, group in zip(engine.trained, _inner(engine).param_groups, strict=True):
        (part,) = group["params"]
        state = _state_of(engine, part)
        begin, end = len(part) * ranks.rank, len(part) * (ranks.rank + 1)  # bounds of the part in the group
        place = 0  # offset of the weight in the group
        for weight in weights:
            first, last = max(place, begin), min(place + weight.numel(), end)
            if first < last:
                inside = slice(first - begin, last - begin)
                moments = {moment: state[moment][inside] for moment in MOMENTS}
                yield _shard(names[weight], weight.numel(), first - place, part[inside], moments)
            place += weight.numel()


def _zero3_shards(engine: Engine, names: dict[nn.Parameter, str], ranks: Ranks) -> Iterator[ParameterShard]:
    """The shards under ZeRO-3, which splits every weight into equal parts and pads the last ones."""
    from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_optimizer_state  # noqa: PLC0415

    for flat in flat_groups(engine.optimizer):
        _state_of(engine, flat)
    for weight in (weight for group in engine.trained for weight in group):
        part, (_, numel) = safe_get_local_fp32_param(weight), partition_of(weight)
        start = len(part) * ranks.rank
        inside = slice(0, max(0, min(len(part), numel - start)))
        moments = {moment: safe_get_local_optimizer_state(weight, moment)[inside] for moment in MOMENTS}
        yield _shard(names[weight], numel, start, part[inside], moments)


def _shard(
    name: str, numel: int, start: int, weights: Tensor, state: dict[str, Tensor], *, is_replicated: bool = False
) -> ParameterShard:
    """The shard of a part that starts at `start` of a parameter of `numel` elements."""
    moments = {moment: state[moment].view(-1) for moment in MOMENTS}
    return ParameterShard(name, numel, start, weights.detach().view(-1), moments, is_replicated)


def _state_of(engine: Engine, holder: Tensor) -> dict[str, Tensor]:
    """AdamW's state of a tensor, initialised as AdamW does before its first step if needed."""
    optimizer = _inner(engine)
    state = optimizer.state[holder]
    if "exp_avg" not in state:
        device = holder.device if optimizer.defaults["fused"] else "cpu"
        state["step"] = torch.zeros((), dtype=torch.float32, device=device)
        for moment in MOMENTS:
            state[moment] = torch.zeros_like(holder, memory_format=torch.preserve_format)
    return state


def _frozen_shards(names: dict[nn.Parameter, str], ranks: Ranks) -> Iterator[ParameterShard]:
    for parameter, name in names.items():
        if parameter.requires_grad:
            continue
        if is_partitioned(parameter):
            part, numel = partition_of(parameter)
            start = len(part) * ranks.rank
            part = part[: max(0, min(len(part), numel - start))]
            yield ParameterShard(name, numel, start, part, {}, is_replicated=False)
        else:
            yield ParameterShard(name, parameter.numel(), 0, parameter.detach().view(-1), {}, is_replicated=True)


def _inner(engine: Engine) -> torch.optim.Optimizer:
    """The AdamW inside DeepSpeed's wrapper, if there is one."""
    return cast(torch.optim.Optimizer, engine.basic_optimizer)
