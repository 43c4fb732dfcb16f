"""The encoder alone as a program of torch.export, for those who serve it without this library."""

from __future__ import annotations

import io

import torch
from torch.export import Dim

from cxml import storage
from cxml.errors import CxmlError
from cxml.model import TappedEncoder

_CLOSE = 1e-4
_SIZES = ((2, 8), (3, 5), (1, 16))


def export_encoder(encoder: TappedEncoder, url: str) -> None:
    """Write the encoder to the file `url` (.pt2), and check that what it gives back is the same.

    The program takes token ids and attention mask, int64 [B, T] each, B and T of any size, and returns the features
    of every level, [B, D] each, the labels' after the bottleneck. `torch.export.load` reads it.

    Raises:
        CxmlError: torch cannot export this encoder, or the program does not give the same features.
    """
    encoder = encoder.eval()
    device = next(encoder.parameters()).device
    vocabulary = int(encoder.transformer.config.vocab_size)

    def inputs(num_texts: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(0, vocabulary, (num_texts, length), generator=generator)
        mask = torch.ones_like(ids)
        mask[-1, length // 2 :] = 0
        return ids.to(device), mask.to(device)

    shape = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    sink = io.BytesIO()
    try:
        with torch.no_grad():
            program = torch.export.export(encoder, inputs(*_SIZES[0]), dynamic_shapes=(shape, shape), strict=False)
        torch.export.save(program, sink)
    except (RuntimeError, ValueError, TypeError) as error:
        raise CxmlError(f"torch.export cannot export this encoder: {str(error)[:500]}") from error
    written = torch.export.load(io.BytesIO(sink.getvalue())).module()
    with torch.no_grad():
        for size in _SIZES:
            for given, expected in zip(written(*inputs(*size)), encoder(*inputs(*size)), strict=True):
                if not torch.allclose(given, expected, atol=_CLOSE):
                    raise CxmlError(
                        f"the exported encoder gives other features for {size[0]} texts of {size[1]} tokens"
                    )
    storage.write_atomic(url, sink.getvalue())
