"""What a sharded level asks of the kernels that work on its rows, whatever they are written in.

There are three kinds for each of `Shortlists` and `EveryRow`: compiled loops for processors (`cpu_kernels`), Triton for
accelerators (`triton_kernels`), and plain PyTorch (`torch_kernels`), which the tests hold the others to.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from torch import Tensor

from cxml.optim.candidates import EveryRow, LeafRows, Shortlists
from cxml.optim.row_adamw import RowSchedule
from cxml.optim.row_tensors import RowTensors

CandidatesT_contra = TypeVar("CandidatesT_contra", Shortlists, EveryRow, contravariant=True)


class RowKernels(Protocol, Generic[CandidatesT_contra]):
    """Loss, gradients, update and ranking of the rows of one rank.

    The logit of a row is `w . feature + b`, with the decay that the row has not taken yet (see `row_adamw`): in
    training as of the end of the step before, in prediction as of the last step taken. A loss is binary cross-entropy
    times the share. A row is touched if a text has it among its candidates, whatever its gradient is.

    Attributes:
        updates_in_passing: `loss` can update the rows in the visit in which it scores them.
    """

    updates_in_passing: bool

    def loss(
        self,
        rows: RowTensors,
        leaf_rows: LeafRows,
        candidates: CandidatesT_contra,
        schedule: RowSchedule,
        *,
        update_scale: float | None = None,
    ) -> Tensor:
        """Score all candidates.

        Args:
            rows: unchanged, unless they are updated in passing.
            leaf_rows: where the leaves' rows are.
            candidates: of S texts.
            schedule: the step under way.
            update_scale: None leaves the rows as they are; else they are updated with their gradients times this.

        Returns:
            float32 [S, D + 1]: the gradient of the summed loss by the features, and in the last column the texts'
            losses.
        """
        ...

    def squares(
        self, rows: RowTensors, leaf_rows: LeafRows, candidates: CandidatesT_contra, schedule: RowSchedule, scale: float
    ) -> Tensor:
        """The sum of the squares of all rows' gradients times `scale`, biases included: float64 []."""
        ...

    def update(
        self,
        rows: RowTensors,
        leaf_rows: LeafRows,
        candidates: CandidatesT_contra,
        schedule: RowSchedule,
        scale: float,
        *,
        factor: Tensor,
        is_sound: Tensor,
    ) -> None:
        """Update the touched rows with their gradients times `scale` times `factor`, as `row_adamw` says.

        Args:
            rows: changed in place.
            leaf_rows: where the leaves' rows are.
            candidates: as they were given to `loss`.
            schedule: the step under way.
            scale: of the gradients.
            factor: float32 [], of the gradients.
            is_sound: bool []; where it is False nothing changes.
        """
        ...

    def best(
        self,
        rows: RowTensors,
        leaf_rows: LeafRows,
        candidates: CandidatesT_contra,
        schedule: RowSchedule,
        k: int,
        parent_logits: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Rank the rows of each text's candidates.

        Args:
            rows: unchanged.
            leaf_rows: where the leaves' rows are.
            candidates: of S texts.
            schedule: the last step taken.
            k: rows wanted per text.
            parent_logits: float32 [P], of the pairs' leaves: the probability of a leaf is a factor of its rows' scores.
                None leaves scores as they are; `EveryRow` has none.

        Returns:
            Keys int64 [S, k], best first, of `cxml.model.ranking.ranking_keys` (`NO_KEY` where there is none), and
            positions int64 [S, k] (-1 likewise). Equal keys come in any order.
        """
        ...


class ShortlistKernels(RowKernels[Shortlists], Protocol):
    """What a level of clusters asks in addition: it hands nodes down to the next level."""

    def scores(
        self, rows: RowTensors, leaf_rows: LeafRows, candidates: Shortlists, schedule: RowSchedule, step: int
    ) -> tuple[Tensor, Tensor]:
        """Score all candidates.

        Args:
            rows: unchanged.
            leaf_rows: where the leaves' rows are.
            candidates: of S texts.
            schedule: of the rows.
            step: the step that rows are to be as of the end of.

        Returns:
            Logits float32 [P, W], with the rows of the largest leaf W, and positions int64 [P, W], -1 where there is no
            row; logits there are anything finite.
        """
        ...
