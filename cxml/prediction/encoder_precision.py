"""The encoder in the number format of prediction."""

from __future__ import annotations

import torch

from cxml import extras
from cxml.accelerators import encoder_dtype
from cxml.config import PredictionPrecision
from cxml.errors import ConfigError
from cxml.model import TappedEncoder


def require_precision(field: str, precision: PredictionPrecision, device: torch.device) -> None:
    """Check that a device and the installed packages support a number format of the encoder.

    Raises:
        ConfigError: they do not; names the setting `field`.
    """
    if precision != "int8":
        return
    if device.type != "cpu":
        problem = f"is only for CPUs, and the device is {device}"
        raise ConfigError(field, precision, problem, "Use auto, which selects the fastest format of the device.")
    extras.require(field, precision, *extras.EXTRAS["onnx"], otherwise="use auto")


def encoder_in(encoder: TappedEncoder, precision: PredictionPrecision, device: torch.device) -> TappedEncoder:
    """An encoder with the transformer in a number format and features in float32: the given one, or a copy.

    Raises:
        ConfigError: see `require_precision`.
        CxmlError: `int8`: see `int8_model`.
    """
    require_precision("precision", precision, device)
    if precision != "int8":
        return encoder.predicting_in(encoder_dtype(precision, device))
    from cxml.prediction.int8_transformer import with_int8_transformer  # noqa: PLC0415 - optional

    return with_int8_transformer(encoder.predicting_in(torch.float32))
