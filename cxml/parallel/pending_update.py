"""Texts and candidates of a step's micro-batches, kept for the update of a level's rows at the end of the step.

The rows' gradients are computed from them after the last micro-batch, so no memory per row is needed.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from cxml.accelerators import host_may_wait
from cxml.optim import AllRows, Shortlists
from cxml.parallel.exchange import Exchange


class PendingUpdate:
    """Candidates of the micro-batches so far.

    Attributes:
        num_texts: S, the texts of all micro-batches.
        largest_feature: largest absolute feature of these texts, []; None without texts.
    """

    def __init__(self) -> None:
        """Start a step."""
        self._parts: list[Shortlists | AllRows] = []
        self._scale = 0.0
        self.num_texts = 0
        self.largest_feature: Tensor | None = None

    def add(self, candidates: Shortlists | AllRows, scale: float) -> None:
        """Store a micro-batch; `scale` is the factor of its rows' gradients, the same for all of a step."""
        assert not self._parts or scale == self._scale, "all micro-batches of a step have the same scale"
        self._parts.append(candidates)
        self._scale = scale
        self.num_texts += len(candidates.features)
        if candidates.features.numel():
            largest = torch.linalg.vector_norm(candidates.features, torch.inf)
            before = self.largest_feature
            self.largest_feature = largest if before is None else torch.maximum(before, largest)
        elif self.largest_feature is None:
            self.largest_feature = candidates.features.new_zeros(())

    @property
    def factor(self) -> float:
        """The largest factor of a feature in a row's gradient."""
        return self._scale * self.num_texts

    def take(self, replicas: Exchange) -> tuple[Shortlists | AllRows, float] | None:
        """The candidates of all micro-batches and of all `replicas` of the rows, and their scale; None without any.

        A collective call of the replicas.
        """
        if not self._parts:
            return None
        joined = _gather(replicas, _join(self._parts)), self._scale
        self.__init__()
        return joined


def _join(parts: list[Shortlists | AllRows]) -> Shortlists | AllRows:
    """Concatenate candidates of one kind."""
    if isinstance(parts[0], Shortlists):
        return Shortlists.join(cast("list[Shortlists]", parts))
    return AllRows.join(cast("list[AllRows]", parts))


def _gather(replicas: Exchange, candidates: Shortlists | AllRows) -> Shortlists | AllRows:
    """The candidates of all ranks that hold the same rows; a collective call of them."""
    if replicas.size == 1:
        return candidates
    pairs = candidates.leaves if isinstance(candidates, Shortlists) else candidates.true_rows
    if host_may_wait(candidates.features):
        texts, rest = replicas.gather_sizes(len(candidates.features), len(pairs)).T.tolist()
    else:  # the same padding on all ranks
        texts, rest = [len(candidates.features)] * replicas.size, [len(pairs)] * replicas.size
    by_text = {"features"} if isinstance(candidates, Shortlists) else {"features", "shares"}
    columns = []
    for name, values in vars(candidates).items():
        sizes = texts if name in by_text else rest
        columns.append(replicas.gather_rows(values, sizes).split(sizes))
    kind = type(candidates)
    return _join([kind(*own) for own in zip(*columns, strict=True)])
