"""Weights and optimiser state inside a DeepSpeed engine, as pieces of global tensors, whatever the ZeRO stage.

Every ZeRO stage keeps fp32 weights and AdamW's moments in flat buffers, cut over the ranks in ways of its own. A `Home`
says which part of which parameter lies where in this rank's buffers, so saving and loading are copies between homes and
pieces, and what one stage saved another can load.

    model/NAME                  weights, fp32 where they are trained
    optimizer/exp_avg/NAME      AdamW's first moment
    optimizer/exp_avg_sq/NAME   its second moment
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from cxml.checkpoint.pieces import Pieces, deal
from cxml.parallel import Engine, Ranks

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, eq=False)
class Home:
    """Where a part of a parameter lies in this rank's memory.

    Attributes:
        name: the parameter's.
        numel: elements of the whole parameter.
        start: where the part begins in the flattened parameter.
        weights: the part, 1-D; changing it changes the engine's.
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
        """The part as pieces by tensor name; changing them changes the engine's."""
        found = {f"model/{self.name}": Pieces.cut(self.numel, self.start, self.weights)}
        for moment, values in self.moments.items():
            found[f"optimizer/{moment}/{self.name}"] = Pieces.cut(self.numel, self.start, values)
        return found


def engine_homes(engine: Engine, ranks: Ranks) -> list[Home]:
    """This rank's part of every parameter that it holds a part of, in an order that all ranks share."""
    names = {parameter: name for name, parameter in cast(nn.Module, engine.module).named_parameters()}
    homes = [*_trained_homes(engine, names), *_frozen_homes(names, ranks)]
    return [home for home in homes if len(home.weights)]


def pieces_to_save(homes: list[Home], ranks: Ranks) -> dict[str, Pieces]:
    """What this rank has to write, where it lies: its own parts, and its share of those that all hold."""
    replicated = [home for home in homes if home.is_replicated]
    owners = deal((len(home.weights) for home in replicated), ranks.world_size)
    mine = [home for home, owner in zip(replicated, owners, strict=True) if owner == ranks.rank]
    mine += [home for home in homes if not home.is_replicated]
    return {name: pieces for home in mine for name, pieces in home.pieces().items()}


def pieces_to_load(homes: list[Home]) -> dict[str, Pieces]:
    """The pieces to fill in place."""
    return {name: pieces for home in homes for name, pieces in home.pieces().items()}


def optimizer_step(engine: Engine) -> int:
    """Updates that the engine's AdamW has taken."""
    return max((int(state["step"]) for state in _inner(engine).state.values()), default=0)


def finish_loading(engine: Engine, step: int) -> None:
    """Make what was loaded into the homes valid: AdamW's count, and the weights that are made from fp32 copies.

    A collective call.
    """
    for state in _inner(engine).state.values():
        state["step"].fill_(step)
    optimizer = cast(Any, engine.optimizer)
    match _kind(engine):
        case "zero12":
            optimizer.update_lp_params()
        case "zero3":
            _refresh_zero3(optimizer)
        case "unfused":
            for masters, weights in zip(optimizer.fp32_groups, optimizer.fp16_groups, strict=True):
                for master, weight in zip(masters, weights, strict=True):
                    weight.data.copy_(master.data)


def _trained_homes(engine: Engine, names: dict[nn.Parameter, str]) -> Iterator[Home]:
    optimizer = cast(Any, engine.optimizer)
    match _kind(engine):
        case "plain":
            for parameter in (p for group in optimizer.param_groups for p in group["params"]):
                yield _home(engine, names[parameter], parameter, parameter)
        case "unfused":
            for masters, weights in zip(optimizer.fp32_groups, optimizer.fp16_groups, strict=True):
                for master, weight in zip(masters, weights, strict=True):
                    yield _home(engine, names[weight], weight, master)
        case "zero12":
            for parameter in (p for group in optimizer.bit16_groups for p in group):
                if (place := parameter._hp_mapping) is not None:
                    flat = optimizer.single_partition_of_fp32_groups[place.param_group_index]
                    inside, here = place.lp_fragment_address, place.hp_fragment_address
                    yield _home(
                        engine, names[parameter], parameter, flat,
                        start=inside.start, offset=here.start, length=here.numel,
                    )  # fmt: skip
        case "zero3":
            for parameter in (p for group in optimizer.fp16_groups for p in group):
                group, offset, size = optimizer.grad_position[optimizer.get_param_id(parameter)]
                start = size * torch.distributed.get_rank(optimizer.dp_process_group)
                inside = max(0, min(size, parameter.ds_numel - start))  # the last ranks' parts are padded
                flat = optimizer.fp32_partitioned_groups_flat[group]
                yield _home(engine, names[parameter], parameter, flat, start=start, offset=offset, length=inside)


def _home(
    engine: Engine,
    name: str,
    parameter: nn.Parameter,
    flat: Tensor,
    *,
    start: int = 0,
    offset: int = 0,
    length: int | None = None,
) -> Home:
    """The home of `length` elements of `parameter` from `start` on, at `offset` of `flat`; without a length, of all."""
    state = _state_of(engine, flat)
    part = slice(offset, offset + (parameter.numel() if length is None else length))
    return Home(
        name=name,
        numel=getattr(parameter, "ds_numel", parameter.numel()),
        start=start,
        weights=flat.detach().view(-1)[part],
        moments={moment: state[moment].view(-1)[part] for moment in MOMENTS},
        is_replicated=length is None,
    )


def _state_of(engine: Engine, flat: Tensor) -> dict[str, Tensor]:
    """AdamW's state of a buffer, made as AdamW would before its first step if there is none yet."""
    optimizer = _inner(engine)
    state = optimizer.state[flat]
    if "exp_avg" not in state:
        device = flat.device if optimizer.defaults["fused"] else "cpu"
        state["step"] = torch.zeros((), dtype=torch.float32, device=device)
        for moment in MOMENTS:
            state[moment] = torch.zeros_like(flat, memory_format=torch.preserve_format)
    return state


def _frozen_homes(names: dict[nn.Parameter, str], ranks: Ranks) -> Iterator[Home]:
    for parameter, name in names.items():
        if parameter.requires_grad:
            continue
        if hasattr(parameter, "ds_tensor"):
            shard = cast(Any, parameter).ds_tensor
            start, numel = shard.numel() * ranks.rank, cast(Any, parameter).ds_numel
            part = shard.detach().view(-1)[: max(0, min(shard.numel(), numel - start))]
            yield Home(name, numel, start, part, {}, is_replicated=False)
        else:
            yield Home(name, parameter.numel(), 0, parameter.detach().view(-1), {}, is_replicated=True)


def _refresh_zero3(optimizer: Any) -> None:  # noqa: ANN401  DeepSpeed's class has no types
    for group, master in enumerate(optimizer.fp32_partitioned_groups_flat):
        optimizer.fp16_partitioned_groups_flat[group].data.copy_(master.data)
        parts = optimizer.unflatten(
            optimizer.fp16_partitioned_groups_flat[group], optimizer.fp16_partitioned_groups[group]
        )
        for part, values in zip(optimizer.fp16_partitioned_groups[group], parts, strict=True):
            part.data = values.data
    if optimizer.persistent_parameters:  # small ones, which every rank keeps whole
        optimizer.persistent_parameters[0].partition(optimizer.persistent_parameters)
        optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)


def _inner(engine: Engine) -> torch.optim.Optimizer:
    """The AdamW inside DeepSpeed's wrapper, if there is one."""
    return cast(torch.optim.Optimizer, engine.basic_optimizer)


def _kind(engine: Engine) -> str:
    """How the engine keeps its fp32 weights."""
    stage = engine.zero_optimization_stage()
    if stage == 3:
        return "zero3"
    if stage in (1, 2):
        return "zero12"
    return "plain" if engine.optimizer is engine.basic_optimizer else "unfused"
