"""Collate gathered rows into padded tensors for a model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cxml.data.ragged import Ragged
from cxml.data.windows import WindowRule, Windows

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class BatchLimits:
    """Upper bounds of all batches of one step over all processes, so that ranks need not exchange sizes.

    Attributes:
        texts: texts per batch.
        labels: labels per batch, over its texts.
        labels_of_a_text: labels per text.
    """

    texts: int
    labels: int
    labels_of_a_text: int

    @classmethod
    def of(cls, label_counts: np.ndarray, cuts: np.ndarray) -> BatchLimits:
        """The limits of n batches.

        Args:
            label_counts: int64 [N], labels of each text, batch after batch.
            cuts: int64 [n + 1], bounds of the batches.
        """
        ends = np.append(0, np.cumsum(label_counts))
        return cls(
            texts=int(np.diff(cuts).max(initial=0)),
            labels=int(np.diff(ends[cuts]).max(initial=0)),
            labels_of_a_text=int(label_counts.max(initial=0)),
        )


@dataclass(frozen=True)
class Batch:
    """Tensors of B texts, or of their n windows if a text is longer than the encoder's input (`data.windows`).

    Rows are texts or windows, padded to the longest of them, T tokens.

    Attributes:
        input_ids: int64 [B or n, T].
        attention_mask: int64 [B or n, T], 1 on tokens and 0 on padding.
        label_values: int64 [nnz], the label ids of all texts end to end, sorted and unique within a text.
        label_offsets: int64 [B + 1]; text i has label_values[label_offsets[i]:label_offsets[i + 1]].
        lengths: int64 [B], tokens of each text without padding, in host memory.
        global_size: texts in the whole optimiser step, over all processes and micro-batches.
        limits: upper bounds of all batches of the step.
        windows: the text of each row; None if each row is a whole text.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    label_values: torch.Tensor
    label_offsets: torch.Tensor
    lengths: np.ndarray
    global_size: int
    limits: BatchLimits
    windows: Windows | None = None

    @property
    def size(self) -> int:
        """B, the texts in this batch."""
        return self.label_offsets.shape[0] - 1

    @property
    def row_lengths(self) -> np.ndarray:
        """Tokens of each text or window, without padding, int64."""
        return self.lengths if self.windows is None else self.windows.lengths

    def first(self, size: int) -> Batch:
        """The first `size` texts."""
        offsets = self.label_offsets[: size + 1]
        windows = None if self.windows is None else self.windows.first(size)
        num_rows = size if windows is None else len(windows.texts)
        return replace(
            self,
            input_ids=self.input_ids[:num_rows],
            attention_mask=self.attention_mask[:num_rows],
            label_values=self.label_values[: int(offsets[-1])],
            label_offsets=offsets,
            lengths=self.lengths[:size],
            limits=replace(self.limits, texts=min(size, self.limits.texts)),
            windows=windows,
        )

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors on a device, by name; `windows` are the texts of the windows."""
        names = ("input_ids", "attention_mask", "label_values", "label_offsets")
        found = {name: getattr(self, name) for name in names}
        return found if self.windows is None else {**found, "windows": self.windows.texts}

    def to(self, device: torch.device | str) -> Batch:
        """The batch on `device`. Copies to an accelerator use pinned memory and are asynchronous."""
        import torch  # noqa: PLC0415 - see `collate`

        device = torch.device(device)
        if device.type == "cpu" or self.input_ids.device == device:
            return self
        tensors = self.tensors()
        if device.type != "meta":
            tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
        copies: dict[str, Any] = {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}
        if self.windows is not None:
            copies["windows"] = replace(self.windows, texts=copies["windows"])
        return replace(self, **copies)


def padded_lengths(max_length: int, most: int = 4) -> tuple[int, ...]:
    """At most `most` lengths to pad batches to: fractions of the longest, in multiples of 8 except for the longest."""
    return tuple(sorted({min(max_length, 8 * -(-max_length * part // (8 * most))) for part in range(1, most + 1)}))


def collate(
    input_ids: Ragged,
    labels: Ragged,
    *,
    pad_id: int,
    global_size: int,
    limits: BatchLimits | None = None,
    pad_to: tuple[int, ...] = (),
    rule: WindowRule | None = None,
) -> Batch:
    """Pad the tokens of B texts with `pad_id` to the longest and pair them with their labels.

    Args:
        input_ids: token ids of B texts.
        labels: label ids of the texts.
        pad_id: the token that pads.
        global_size: texts in the whole optimiser step.
        limits: upper bounds of all batches of the step; None if this is the only one.
        pad_to: ascending lengths; pads to the first that is long enough, else to the longest row.
        rule: rule for splitting long texts into windows; None for no windows.
    """
    import torch  # noqa: PLC0415 - a second, which the workers of a preparation need not wait

    rows, windows, num_rows = input_ids, None, len(input_ids)
    if rule is not None:
        cut, counts = rule.cut(input_ids)
        if len(cut) > len(input_ids):
            rows, num_rows = cut, rule.padded(counts)
            texts = np.repeat(np.arange(len(counts) + 1), np.append(counts, num_rows - len(cut)))
            windows = Windows(torch.from_numpy(texts), counts, cut.lengths)
    longest = int(rows.lengths.max(initial=1))
    padded = next((length for length in pad_to if length >= longest), longest)
    mask_NT = np.zeros((num_rows, padded), bool)
    mask_NT[: len(rows)] = np.arange(padded) < rows.lengths[:, None]
    ids_NT = np.full(mask_NT.shape, pad_id, np.int64)
    ids_NT[mask_NT] = rows.values  # both are in row-major order
    mask_NT[len(rows) :, 0] = True  # avoids NaN in attention over an empty row, and in its gradient
    return Batch(
        input_ids=torch.from_numpy(ids_NT),
        attention_mask=torch.from_numpy(mask_NT.astype(np.int64)),
        label_values=torch.from_numpy(labels.values.astype(np.int64)),
        label_offsets=torch.from_numpy(labels.offsets.astype(np.int64)),
        lengths=input_ids.lengths,
        global_size=global_size,
        limits=limits or BatchLimits.of(labels.lengths, np.array([0, len(labels.lengths)])),
        windows=windows,
    )
