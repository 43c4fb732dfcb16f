"""Export only the encoder as a torch.export program, to serve it without this library."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from cxml import storage
from cxml.config import Config
from cxml.errors import ConfigError, CxmlError
from cxml.evidence import Evidence
from cxml.model import TappedEncoder

_CLOSE = 1e-4
CHECKED_SIZES = ((2, 8), (3, 5), (1, 16), (1, 1))
"""Numbers of texts and tokens for the comparison of an exported encoder."""


def export_encoder(encoder: TappedEncoder, url: str) -> None:
    """Write the encoder to the file `url` (.pt2), and check its results.

    The program takes token ids and attention mask, int64 [B, T] each, B and T of any size, and returns the features
    of every level, [B, D] each, the labels' after the bottleneck. `torch.export.load` reads it.

    Raises:
        CxmlError: this encoder cannot be exported, or the features of the program differ.
    """
    encoder = encoder.eval()
    sink = io.BytesIO()
    with naming_the_encoder():
        torch.export.save(encoder_program(encoder), sink)
    written = torch.export.load(io.BytesIO(sink.getvalue())).module()
    check_features(encoder, written)
    storage.write_atomic(url, sink.getvalue())


def refuse_windows(config: Config, field: str, value: object) -> None:
    """Raise an error for a model with windows, which exported programs do not support.

    Raises:
        ConfigError: the model has windows; names the field of the export, its value, and the remedy.
    """
    if config.tokens_at_once < config.data.max_length:
        problem = f"does not support the windows of {config.model.window} tokens of this model"
        raise ConfigError(field, value, problem, "Use only the form cxml, which `cxml.Predictor` reads.")


def refuse_evidence(evidence: Evidence | None, field: str, value: object) -> None:
    """Raise an error for a model with evidence, which exported programs do not support.

    Raises:
        ConfigError: the model has evidence; names the field of the export, its value, and the remedy.
    """
    if evidence is not None:
        problem = f"does not support the {' and '.join(evidence.names)} of this model"
        remedy = "Load the model with evidence=False (python -m cxml.export --no-evidence) to export only the cascade."
        raise ConfigError(field, value, problem, remedy)


def encoder_program(encoder: TappedEncoder, module: nn.Module | None = None) -> ExportedProgram:
    """The encoder as a program for any number of texts of any length.

    Args:
        encoder: in evaluation mode.
        module: takes the encoder's inputs and returns a list of tensors [B, ...]; None for the encoder itself.

    Raises:
        CxmlError: this encoder cannot be exported.
    """
    shape = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    with torch.no_grad(), naming_the_encoder():
        inputs = random_inputs(encoder, *CHECKED_SIZES[0])
        return torch.export.export(module or encoder, inputs, dynamic_shapes=(shape, shape), strict=False)


@contextmanager
def naming_the_encoder() -> Iterator[None]:
    """Within this context, errors of an exporter become a `CxmlError` with the first error as the reason."""
    try:
        yield
    except (CxmlError, OSError):  # of files, or of a context inside this one
        raise
    except Exception as error:  # the code of encoders, exporters and onnxruntime raises any kind of error
        remedy = (
            "Predict in another precision than int8, export in the form cxml, or try a newer version of PyTorch or "
            "transformers."
        )
        raise CxmlError(f"this encoder cannot be exported ({_reason(error)}). {remedy}") from error


def _reason(error: BaseException) -> str:
    """The first line of the error that caused the others; torch adds advice for its own developers."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def random_inputs(encoder: TappedEncoder, num_texts: int, length: int) -> tuple[Tensor, Tensor]:
    """Random token ids and their mask, int64 [B, T] each; half of the last text is padding."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, int(encoder.transformer.config.vocab_size), (num_texts, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[-1, (length + 1) // 2 :] = 0
    device = next(encoder.parameters()).device
    return ids.to(device), mask.to(device)


def check_features(encoder: TappedEncoder, written: Callable[[Tensor, Tensor], Sequence[Tensor]]) -> None:
    """Check that the features of an exported encoder equal those of `encoder`.

    Raises:
        CxmlError: its features differ; names the size of the inputs.
    """
    with torch.no_grad():
        for size in CHECKED_SIZES:
            inputs = random_inputs(encoder, *size)
            for given, expected in zip(written(*inputs), encoder(*inputs), strict=True):
                if not torch.allclose(given, expected, atol=_CLOSE):
                    raise CxmlError(
                        f"the features of the exported encoder differ for {size[0]} texts of {size[1]} tokens"
                    )


class LabelFeatures(nn.Module):
    """An encoder that returns only the label features."""

    def __init__(self, encoder: TappedEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> list[Tensor]:
        """The label features [B, D], in a list."""
        return self.encoder(input_ids, attention_mask)[-1:]
