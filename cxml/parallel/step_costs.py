"""Compute the costs of a training step besides arithmetic: bytes that levels send, and kernels that they launch.

`LevelTraffic` counts bytes. `launches_of_step` counts kernels on an accelerator besides those of the encoder; the tests
compare it with the counts of `benchmarks/device_step.py`. The engine is the one without DeepSpeed, fused kernels are
on, and an operation that PyTorch does in several kernels counts once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cxml.config import Config

_PAIR = 12  # text, leaf and share, 4 bytes each; the words that mark true rows come on top
_ROWS_OF_A_WORD = 32


@dataclass(frozen=True, kw_only=True)
class LevelTraffic:
    """The traffic of a process for one sharded level in a micro-batch.

    Attributes:
        ranks: processes that share the rows, R.
        texts: of a process, B.
        parents: nodes that the level above selects for a text, K.
        width: of a feature, D.
        feature_bytes: of one number of a feature on an accelerator: 4, or 2 under bf16. CPUs send float32.
        rows_of_a_leaf: children of the largest node of the level above.
    """

    ranks: int
    texts: int
    parents: int
    width: int
    feature_bytes: int
    rows_of_a_leaf: int

    @property
    def exact(self) -> int:
        """Bytes between CPUs: a text goes to the owners of its leaves, of which it has K at most."""
        others = (self.ranks - 1) / self.ranks
        owners = self.ranks * (
            1 - (1 - 1 / self.ranks) ** self.parents
        )  # leaves are assigned in turn, as good as drawn
        texts = self.texts * owners * others * self._there_and_back(4)
        return round(texts + self.texts * self.parents * others * self._pair)

    @property
    def padded(self) -> int:
        """Bytes between accelerators: all features, and room for all pairs, go to every other process."""
        each = self.texts * (self._there_and_back(self.feature_bytes) + self.parents * self._pair)
        return (self.ranks - 1) * each

    @property
    def _pair(self) -> int:
        return _PAIR + 4 * -(-self.rows_of_a_leaf // _ROWS_OF_A_WORD)

    def _there_and_back(self, feature_bytes: int) -> int:
        """A feature, and the gradient and loss that come back for it in float32."""
        return self.width * feature_bytes + 4 * (self.width + 1)


_MICRO_BATCH = 8  # true nodes, weighing of the levels' losses and its gradients
_STEP = 14  # the check of the step, the norm of the gradient
_OF_A_GROUP = 3  # of parameters: AdamW
_CLIPPING = 5
_ENGINE_LEVEL = 9
_CHILDREN = 1  # of the nodes that the level above hands down
_SHORTLIST = 8  # rows of a shortlist, of one process
_NO_LEVEL_ABOVE = 2  # every node is wanted: their numbers, for each text
_ALL_ROWS = 31  # all rows
_SELECTED = 11  # by a sharded level of clusters, from the best of each process
_EXCHANGED = 27  # of features, pairs and gradients with other processes
_SHORTLIST_UPDATE = 3
_ALL_ROWS_UPDATE = 6
_MERGED = 9  # micro-batches of a step, for the update


@dataclass(frozen=True)
class LevelKind:
    """How a level is trained: by the engine, or as rows that are `sharded`; on `all` of them or on a shortlist."""

    sharded: bool
    scores_all: bool = False


def launches_of_step(levels: Sequence[LevelKind], config: Config, ranks_per_replica: int) -> dict[str, int] | None:
    """Launches of each level, labels last, and of the rest of a step.

    Args:
        levels: coarse to fine, labels last.
        config: micro-batches, clipping, number format.
        ranks_per_replica: processes that share the rows.

    Returns:
        By name; None for settings without a count: replicas of the rows, a clipped norm of all rows, all
        rows on several processes or in several micro-batches, rows in host memory, the zero3 head, ZeRO,
        `train.deterministic`.
    """
    train, head = config.train, config.head
    is_alone = ranks_per_replica == train.accumulation == 1
    is_counted = (
        head.implementation == "rows" and head.rows_in == "device" and not head.clip_global_norm
        and not train.zero_stage and not train.deterministic
    )  # fmt: skip
    has_replicas = ranks_per_replica != train.num_workers
    if not is_counted or has_replicas or (head.candidates == "all" and not is_alone):
        return None
    names = [*(f"level {number}" for number in range(len(levels) - 1)), "labels"]
    counts = [_of_level(levels, number, config, ranks_per_replica) for number in range(len(levels))]
    return dict(zip(names, counts, strict=True)) | {"rest": _rest(levels, config)}


def _of_level(levels: Sequence[LevelKind], number: int, config: Config, ranks: int) -> int:
    kind, is_last, micro_batches = levels[number], number == len(levels) - 1, config.train.accumulation
    if not kind.sharded:
        own = _ENGINE_LEVEL + (_CHILDREN if number else 0)
        sums = 0 if _has_buckets(config) else 2 * (micro_batches - 1)  # of the gradients of weights and biases
        return own * micro_batches + sums
    if kind.scores_all:
        return _ALL_ROWS + _ALL_ROWS_UPDATE
    own = _SHORTLIST + (0 if is_last else _SELECTED) + (_EXCHANGED if ranks > 1 else 0)
    own += 0 if number else _NO_LEVEL_ABOVE
    merged = _MERGED + 2 * micro_batches + micro_batches - 1 if micro_batches > 1 else 0
    return own * micro_batches + merged + _SHORTLIST_UPDATE


def _rest(levels: Sequence[LevelKind], config: Config) -> int:
    train, micro_batches = config.train, config.train.accumulation
    groups = 2 if all(kind.sharded for kind in levels) else 4  # weights and the rest, of encoder and classifiers
    if config.model.bottleneck:
        groups = max(groups, 3)  # its weights are in the classifiers' group
    found = _STEP + _OF_A_GROUP * groups + _MICRO_BATCH * micro_batches
    if micro_batches > 1:
        found += micro_batches - 1  # the sum of the losses
    if train.gradient_clipping:
        found += _CLIPPING
    if sum(kind.sharded for kind in levels) > 1:
        found += 2  # all updates have to be bounded
    if train.precision == "bf16":
        found += 1 + 3 * micro_batches  # copies of weights; losses and gradients of rows between float32 and bfloat16
    return found + 2 * (train.num_workers > 1)  # the losses of all processes, and the mean of their gradients


def _has_buckets(config: Config) -> bool:
    """Whether gradients are summed in buckets, during the backward pass of the encoder."""
    return config.train.num_workers > 1 or config.train.precision == "bf16"
