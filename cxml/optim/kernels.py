"""The interface of the kernels for the rows of a sharded level.

There are three implementations for each of `Shortlists` and `AllRows`: compiled loops for CPUs (`cpu_kernels`), Triton
for accelerators (`triton_kernels`), and plain PyTorch (`torch_kernels`), the reference for tests.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from torch import Tensor

from cxml.optim.candidates import AllRows, LeafRows, Shortlists
from cxml.optim.row_adamw import RowSchedule
from cxml.optim.row_tensors import RowTensors

CandidatesT_contra = TypeVar("CandidatesT_contra", Shortlists, AllRows, contravariant=True)


class RowKernels(Protocol, Generic[CandidatesT_contra]):
    """Loss, gradients, update and ranking of the rows of one rank.

    The logit of a row is `w . feature + b`, with pending decay applied (see `row_adamw`): in training up to the end of
    the previous step, in prediction up to the last step. A loss is binary cross-entropy times the share. A row is
    touched if it is a candidate of a text, even if its gradient is 0.

    Attributes:
        fuses_update: whether `loss` can update the rows while scoring them.
    """

    fuses_update: bool

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
            rows: unchanged, unless `update_scale` is given.
            leaf_rows: rows of the leaves.
            candidates: candidates of S texts.
            schedule: the current step.
            update_scale: None does not update the rows; else they are updated with their gradients times this.

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
        is_finite: Tensor,
    ) -> None:
        """Update the touched rows with their gradients times `scale` times `factor`, see `row_adamw`.

        Args:
            rows: changed in place.
            leaf_rows: where the leaves' rows are.
            candidates: the candidates passed to `loss`.
            schedule: the step under way.
            scale: of the gradients.
            factor: float32 [], of the gradients.
            is_finite: bool []; False skips the update.
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
                None leaves scores as they are; `AllRows` has none.

        Returns:
            Keys int64 [S, k], best first, of `cxml.model.ranking.ranking_keys`, padded with `NO_KEY`, and positions
            int64 [S, k], padded with -1. The order of ties is undefined.
        """
        ...


class ShortlistKernels(RowKernels[Shortlists], Protocol):
    """Additional interface for cluster levels, which select nodes for the next level."""

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
