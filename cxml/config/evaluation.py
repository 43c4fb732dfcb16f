"""The sections `evidence` and `evaluate`: what scores rest on besides the cascade, and how they are measured."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from cxml.config.fields import PrecisionChoice, require, require_at_least


@dataclass(frozen=True, kw_only=True)
class EvidenceConfig:
    """What the model rests on besides the cascade.

    How much each source counts is learnt on validation texts: any needs train.validation_fraction, such as 0.05, or a
    data set with a split `validation`. Sources are a part of the saved model. A finished run gets them by the same
    command, without training again.
    """

    words: bool = False
    """Also train a sparse linear model of the words of whole texts (seconds of work)."""
    neighbours: bool = False
    """Also let the nearest training texts vote for their labels, by what the model has learnt (RAE-XMC's idea). Takes
    two bytes per number of a text's feature. Needs faiss: pip install 'cxml[neighbours]'."""
    names: bool = False
    """Also propose the labels whose names are nearest to a text by what the model has learnt: labels without a single
    train text can be predicted. train.name_texts says which part of a name to take; empty: all of it. Needs faiss."""

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources that are asked for, in the order in which a model has them."""
        return tuple(each.name for each in dataclasses.fields(self) if getattr(self, each.name))


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Prediction on the test split and its report."""

    batch_size: int = 128
    """Texts per batch and process."""
    top_k: tuple[int, ...] = (1, 3, 5)
    """The k of P@k, RP@k, nDCG@k, PSP@k, PSnDCG@k and recall@k."""
    precision: PrecisionChoice = "auto"
    """Number format in which the encoder predicts: here, and where the model predicts later, unless that says another.
    auto: bf16 where the device computes fast in it (accelerators that have it, processors with AMX, AMD's with AVX-512
    BF16), else fp32. Features and scores are fp32 always."""
    wanted_precision: float = 0.9
    """Share of right decisions, above 0 and at most 1, that the threshold named `precision` is chosen for. Thresholds
    are chosen on the validation texts, see train.validation_fraction."""
    baseline: bool = False
    """Also train and report a linear model on tf-idf (omikuji's Parabel) on the same split."""
    examples: int = 3
    """Test texts shown with their best labels at the end."""

    def __post_init__(self) -> None:
        require_at_least("evaluate.batch_size", self.batch_size, 1)
        require(bool(self.top_k), "evaluate.top_k", self.top_k, "is empty", "Use [1, 3, 5].")
        for k in self.top_k:
            require_at_least("evaluate.top_k", k, 1)
        require_at_least("evaluate.examples", self.examples, 0)
        require(
            0 < self.wanted_precision <= 1, "evaluate.wanted_precision", self.wanted_precision,
            "must be above 0 and at most 1", "Use 0.9 for nine right decisions in ten.",
        )  # fmt: skip
