"""The rows of each optimiser step, as a pure function of (lengths, settings, seed, epoch)."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from cxml.data.length_parts import length_parts
from cxml.data.order import bucket, cut, epoch_order, smallest_batch
from cxml.data.token_steps import TokenSteps
from cxml.data.windows import WindowRule


@dataclass(frozen=True, kw_only=True)
class StepRule:
    """How texts are grouped into steps and windows; see the fields with the same names of `TrainConfig`."""

    batch_size: int
    bucket_by_length: bool = False
    batch_tokens: int = 0
    windows: WindowRule | None = None

    def most_tokens(self, lengths: np.ndarray) -> np.ndarray:
        """Most tokens, including padding, that each text adds to a step in which it is the longest, int64 [N]."""
        return lengths if self.windows is None else self.windows.most_tokens(lengths)


class StepOrder:
    """The steps of every epoch over N texts, over all processes and micro-batches together.

    Attributes:
        steps_per_epoch: optimiser steps, the same in every epoch.
        smallest: lower bound for the texts of the smallest step.
    """

    def __init__(self, lengths: np.ndarray, rule: StepRule, seed: int) -> None:
        """Plan the steps; `lengths`: tokens of each text, int64 [N]."""
        self._lengths = lengths
        self._seed = seed
        self._bucket_by_length = rule.bucket_by_length
        self._by_tokens = TokenSteps.plan(rule.most_tokens(lengths), rule.batch_tokens) if rule.batch_tokens else None
        if self._by_tokens is not None:
            self.steps_per_epoch = self._by_tokens.num_steps
            self.smallest = int(np.diff(self._by_tokens.bounds).min())
        else:
            self.steps_per_epoch = math.ceil(len(lengths) / rule.batch_size)
            is_even = not rule.bucket_by_length
            self.smallest = (
                len(lengths) // self.steps_per_epoch if is_even else smallest_batch(len(lengths), self.steps_per_epoch)
            )

    def epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows int64 [N] of an epoch, step after step, and the bounds int64 [steps + 1] of its steps."""
        order = epoch_order(len(self._lengths), self._seed, epoch)
        if self._by_tokens is not None:
            return self._by_tokens.arrange(order, self._lengths, self._seed, epoch)
        if self._bucket_by_length:
            return bucket(order, self._lengths, self.steps_per_epoch, self._seed, epoch)
        return order, cut(len(order), self.steps_per_epoch)


@dataclass(frozen=True, kw_only=True)
class StepFacts:
    """Statistics of an epoch's steps.

    Attributes:
        steps_per_epoch: optimiser steps.
        texts: mean texts per micro-batch, rounded up.
        width: mean tokens per text including padding, over all of its windows.
        padding: share of padding, and of special tokens added by windows, in the tokens of an epoch.
        mean_tokens: mean tokens per step over all processes and micro-batches, including padding.
        most_tokens: tokens of the largest step.
    """

    steps_per_epoch: int
    texts: int
    width: float
    padding: float
    mean_tokens: float
    most_tokens: int


def step_facts(
    lengths: np.ndarray, rule: StepRule, *, seed: int, parts: int, num_texts: int, splits_batches: bool = False
) -> StepFacts:
    """Measure the first epoch.

    Args:
        lengths: int64 [n], tokens of each text, or of a sample of the texts.
        rule: rule that groups them into steps.
        seed: seed of the order.
        parts: micro-batches per step, over all processes.
        num_texts: N, the number of training texts.
        splits_batches: whether the encoder computes micro-batches of mixed lengths in two parts (`length_parts`).
    """
    order = StepOrder(lengths, rule, seed)
    rows, bounds = order.epoch(0)
    parts_of_step = min(parts, order.smallest)
    if splits_batches:
        tokens = _tokens_in_parts(lengths[rows], bounds, parts_of_step)
    else:
        padded, widths = micro_batch_shapes(lengths[rows], bounds, parts_of_step, rule.windows)
        tokens = (padded * widths).sum(1)
    steps = round(order.steps_per_epoch * num_texts / len(lengths))
    if not rule.batch_tokens:
        steps = math.ceil(num_texts / rule.batch_size)
    return StepFacts(
        steps_per_epoch=steps,
        texts=math.ceil((num_texts / steps if rule.batch_tokens else rule.batch_size) / parts),
        width=float(tokens.sum() / len(lengths)),
        padding=1 - float(lengths.sum() / tokens.sum()),
        mean_tokens=float(tokens.mean()),
        most_tokens=int(tokens.max()),
    )


def _tokens_in_parts(lengths: np.ndarray, bounds: np.ndarray, parts: int) -> np.ndarray:
    """The padded tokens of each step, int64 [steps], with the micro-batches of `micro_batch_shapes` in two parts."""
    starts = _micro_batch_starts(bounds, parts)
    tokens = [_tokens_of(lengths[first:last]) for first, last in itertools.pairwise([*starts.ravel(), bounds[-1]])]
    return np.array(tokens, np.int64).reshape(starts.shape).sum(1)


def _tokens_of(lengths: np.ndarray) -> int:
    """Padded tokens of a micro-batch, in two parts if they save enough."""
    width = int(lengths.max())
    parts = length_parts(lengths, width)
    return sum(len(part.rows) * part.width for part in parts) if parts else width * len(lengths)


def micro_batch_shapes(
    lengths: np.ndarray, bounds: np.ndarray, parts: int, rule: WindowRule | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Texts, or windows, and width in tokens of each padded micro-batch, both int64 [steps, parts].

    Args:
        lengths: int64 [N], tokens of the texts, step after step.
        bounds: int64 [steps + 1], of the steps.
        parts: micro-batches of a step, over all processes; at most as many as the smallest step has texts.
        rule: how texts are cut into windows; None leaves them whole.
    """
    counts, widths = (np.ones_like(lengths), lengths) if rule is None else (rule.counts(lengths), rule.widths(lengths))
    starts = _micro_batch_starts(bounds, parts)
    rows, widths = np.add.reduceat(counts, starts.ravel()), np.maximum.reduceat(widths, starts.ravel())
    return rows.reshape(starts.shape), widths.reshape(starts.shape)


def _micro_batch_starts(bounds: np.ndarray, parts: int) -> np.ndarray:
    """The first row of each micro-batch, int64 [steps, parts]; arguments as in `micro_batch_shapes`."""
    return bounds[:-1, None] + np.arange(parts) * np.diff(bounds)[:, None] // parts
