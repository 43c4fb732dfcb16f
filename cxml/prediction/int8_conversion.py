"""Convert a transformer to an ONNX model in int8.

TappedEncoder -> torch.export -> torch.onnx -> weights of the linear layers in int8

This is done in a process of its own, because torch.export temporarily replaces functions of PyTorch: in the same
process, predictions and conversions of other threads would fail.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.quant_utils import add_pre_process_metadata
from torch import Tensor, nn

from cxml import storage
from cxml.accelerators import sums_int8_exactly
from cxml.errors import CxmlError
from cxml.model import TappedEncoder
from cxml.operating_system import ending_with_parent
from cxml.prediction.encoder_program import CHECKED_SIZES, encoder_program, naming_the_encoder, random_inputs
from cxml.prediction.onnx_encoder import INPUTS, begin_model, open_session, save_model

_ENCODER, _FP32, _INT8, _PROBLEM = "encoder.pt", "fp32.onnx", "int8.onnx", "problem.txt"
_MOST_ERROR = 0.5  # of hidden states, relative to their norm; a few hundredths are usual


def tapped_layers(encoder: TappedEncoder) -> list[int]:
    """The layers that the levels read, ascending."""
    return sorted({layer for tap in encoder.taps for layer in tap})


def int8_model(encoder: TappedEncoder) -> bytes:
    """An ONNX model that computes the hidden states of the `tapped_layers` of an encoder.

    Args:
        encoder: in float32, on the CPU, in evaluation mode.

    Raises:
        CxmlError: the encoder cannot be exported, or its hidden states in int8 differ too much.
        StorageError: temporary files cannot be written.
    """
    with storage.temporary_folder() as folder:
        torch.save(encoder, folder / _ENCODER)
        finished = subprocess.run(
            [*ending_with_parent(signal.SIGTERM), sys.executable, "-m", __name__, str(folder)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},  # modules of the encoder's code
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace",
            check=False,
        )  # fmt: skip
        if finished.returncode:
            file = folder / _PROBLEM
            last = (finished.stderr.strip().splitlines() or [""])[-1]
            problem = f"the conversion of the encoder to int8 ended with exit code {finished.returncode}. {last}"
            raise CxmlError(file.read_text(encoding="utf-8") if file.exists() else problem.rstrip())
        return (folder / _INT8).read_bytes()


def main() -> int:
    """Convert the encoder in the folder of the first argument. Returns the exit code."""
    folder = Path(sys.argv[1])
    try:
        encoder = torch.load(folder / _ENCODER, weights_only=False)  # a pickle, from the process that started this one
        _convert(encoder, folder)
    except CxmlError as error:
        (folder / _PROBLEM).write_text(str(error), encoding="utf-8")
        return 2
    return 0


class _TappedStates(nn.Module):
    """A transformer that returns only the hidden states of some layers."""

    def __init__(self, encoder: TappedEncoder) -> None:
        super().__init__()
        self.transformer, self.layers = encoder.transformer, tapped_layers(encoder)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> list[Tensor]:
        states = self.transformer(input_ids, attention_mask=attention_mask, output_hidden_states=True).hidden_states
        return [states[layer] for layer in self.layers]


def _convert(encoder: TappedEncoder, folder: Path) -> None:
    given, found = folder / _FP32, folder / _INT8
    module = _TappedStates(encoder)
    model = begin_model(encoder_program(encoder, module), [f"states_{layer}" for layer in module.layers], given)
    add_pre_process_metadata(model)  # torch has optimised the graph; onnxruntime would advise to do it
    save_model(model, given)
    with naming_the_encoder():
        quantize_dynamic(
            given, found, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True, weight_type=QuantType.QInt8,
            reduce_range=not sums_int8_exactly(),
        )  # fmt: skip
        session = open_session(found)
    with torch.no_grad():
        for size in CHECKED_SIZES:
            inputs = random_inputs(encoder, *size)
            _check_states(session, inputs, module(*inputs))


def _check_states(session: onnxruntime.InferenceSession, inputs: tuple[Tensor, Tensor], exact: list[Tensor]) -> None:
    """Check that rounding, and texts of another length than in the export, change the hidden states only slightly."""
    is_token = inputs[1].bool()
    found = session.run(None, {name: each.numpy() for name, each in zip(INPUTS, inputs, strict=True)})
    for own, expected in zip(found, exact, strict=True):
        difference = torch.from_numpy(np.asarray(own)) - expected
        error = (difference[is_token].norm() / expected[is_token].norm()).item()
        if not error <= _MOST_ERROR:
            sizes = f"{len(is_token)} texts of {is_token.shape[1]} tokens"
            raise CxmlError(
                f"int8 changes the hidden states of this encoder by {error:.0%} for {sizes}. Predict in another "
                "precision than int8."
            )


if __name__ == "__main__":
    sys.exit(main())
