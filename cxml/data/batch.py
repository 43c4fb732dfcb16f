"""From gathered rows to the padded tensors that a model takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cxml.data.ragged import Ragged

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class BatchLimits:
    """What no batch exceeds of those that all processes work on in one step, so that none has to ask for sizes.

    Attributes:
        texts: of a batch.
        labels: of a batch, over its texts.
        labels_of_a_text: of one text.
    """

    texts: int
    labels: int
    labels_of_a_text: int

    @classmethod
    def of(cls, label_counts: np.ndarray, cuts: np.ndarray) -> BatchLimits:
        """The limits of n batches.

        Args:
            label_counts: int64 [N], labels of each text, batch after batch.
            cuts: int64 [n + 1], where the batches begin and end.
        """
        ends = np.append(0, np.cumsum(label_counts))
        return cls(
            texts=int(np.diff(cuts).max(initial=0)),
            labels=int(np.diff(ends[cuts]).max(initial=0)),
            labels_of_a_text=int(label_counts.max(initial=0)),
        )


@dataclass(frozen=True)
class Batch:
    """Tensors of B texts, padded to the longest of them, T tokens.

    Attributes:
        input_ids: int64 [B, T].
        attention_mask: int64 [B, T], 1 on tokens and 0 on padding.
        label_values: int64 [nnz], the label ids of all texts end to end, sorted and unique within a text.
        label_offsets: int64 [B + 1]; text i has label_values[label_offsets[i]:label_offsets[i + 1]].
        lengths: int64 [B], tokens of each text without padding, in host memory.
        global_size: texts in the whole optimiser step, over all processes and micro-batches.
        limits: of all batches that are worked on at the same time.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    label_values: torch.Tensor
    label_offsets: torch.Tensor
    lengths: np.ndarray
    global_size: int
    limits: BatchLimits

    @property
    def size(self) -> int:
        """B, the texts in this batch."""
        return self.input_ids.shape[0]

    def first(self, size: int) -> Batch:
        """The first `size` texts."""
        offsets = self.label_offsets[: size + 1]
        return replace(
            self,
            input_ids=self.input_ids[:size],
            attention_mask=self.attention_mask[:size],
            label_values=self.label_values[: int(offsets[-1])],
            label_offsets=offsets,
            lengths=self.lengths[:size],
            limits=replace(self.limits, texts=min(size, self.limits.texts)),
        )

    def tensors(self) -> dict[str, torch.Tensor]:
        """Those of its fields that lie on a device, by name."""
        names = ("input_ids", "attention_mask", "label_values", "label_offsets")
        return {name: getattr(self, name) for name in names}

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`. To an accelerator it is copied from pinned memory, and the host does not wait."""
        import torch  # noqa: PLC0415 - see `collate`

        device = torch.device(device)
        if device.type == "cpu" or self.input_ids.device == device:
            return self
        tensors = self.tensors()
        if device.type != "meta":
            tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
        return replace(self, **{name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()})


def few_lengths(max_length: int, most: int = 4) -> tuple[int, ...]:
    """At most so many lengths to pad batches to, in tokens: equal parts of the longest one, but for that in eights."""
    return tuple(sorted({min(max_length, 8 * -(-max_length * part // (8 * most))) for part in range(1, most + 1)}))


def collate(
    input_ids: Ragged,
    labels: Ragged,
    *,
    pad_id: int,
    global_size: int,
    limits: BatchLimits | None = None,
    pad_to: tuple[int, ...] = (),
) -> Batch:
    """Pad B rows of tokens with `pad_id` to the longest and pair them with their labels.

    Args:
        input_ids: token ids of B rows.
        labels: label ids of the rows.
        pad_id: the token that pads.
        global_size: texts in the whole optimiser step.
        limits: of all batches that are worked on at the same time; None if this is the only one.
        pad_to: pad to the first of these that is long enough, ascending; empty, or all too short: to the longest row.
    """
    import torch  # noqa: PLC0415 - a second, which the workers of a preparation need not wait

    longest = int(input_ids.lengths.max(initial=1))
    padded = next((length for length in pad_to if length >= longest), longest)
    mask_BT = np.arange(padded) < input_ids.lengths[:, None]
    ids_BT = np.full(mask_BT.shape, pad_id, np.int64)
    ids_BT[mask_BT] = input_ids.values  # both run through the tokens row by row
    return Batch(
        input_ids=torch.from_numpy(ids_BT),
        attention_mask=torch.from_numpy(mask_BT.astype(np.int64)),
        label_values=torch.from_numpy(labels.values.astype(np.int64)),
        label_offsets=torch.from_numpy(labels.offsets.astype(np.int64)),
        lengths=input_ids.lengths,
        global_size=global_size,
        limits=limits or BatchLimits.of(labels.lengths, np.array([0, len(labels.lengths)])),
    )
