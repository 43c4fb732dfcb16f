"""The fields of config sections: the effect of each field's value, and checks of values."""

from __future__ import annotations

import re
from dataclasses import field, fields
from typing import Any, Literal

from cxml.errors import ConfigError

Effect = Literal["result", "resumable", "none"]
"""The effect of a field's value.

`result`: it changes the result of its section. `resumable`: it is part of the fingerprint, but an unfinished run may
resume with another value. `none`: it only changes locations or parallelism, and no fingerprint contains it.
"""


Precision = Literal["fp32", "bf16"]
"""A number format of an encoder's computation."""
PrecisionChoice = Literal["auto", "fp32", "bf16"]
"""The setting of a number format; `auto` is the fastest format of the device."""
PredictionPrecision = Literal["auto", "fp32", "bf16", "int8"]
"""The setting of an encoder's number format in prediction; `auto` is never int8, which changes the labels."""
ThresholdName = Literal["micro-f1", "macro-f1", "precision"]
"""The measures that thresholds of probabilities are chosen for."""


def setting(
    default: Any,  # noqa: ANN401 - of any type
    effect: Effect = "result",
    *,
    since_files: bool = False,
    choosable: bool = False,
) -> Any:  # noqa: ANN401
    """A field with the effect of its value.

    Args:
        default: default of the field.
        effect: see `Effect`.
        since_files: the field is newer than files whose fingerprints must not change, so they omit its default.
        choosable: a config may leave the value open, see `CHOOSABLE`.
    """
    return field(default=default, metadata={"effect": effect, "since_files": since_files, "choosable": choosable})


def effects(section: type) -> dict[str, Effect]:
    """The effect of each field of a section, by name."""
    return {each.name: each.metadata.get("effect", "result") for each in fields(section)}


def require(holds: bool, name: str, value: object, problem: str, remedy: str) -> None:
    """Raise `ConfigError` about the field `name` unless something `holds`."""
    if not holds:
        raise ConfigError(name, value, problem, remedy)


def require_at_least(name: str, value: float, least: float) -> None:
    """Raise `ConfigError` for a value below `least`."""
    require(value >= least, name, value, f"must be at least {least}", f"Set {name} to {least} or more.")


def require_fraction(name: str, value: float) -> None:
    """Raise `ConfigError` for a value outside of [0, 1)."""
    require(0 <= value < 1, name, value, "must be in [0, 1)", f"Set {name} to a number from 0 to below 1, such as 0.2.")


def require_group(name: str, pattern: str) -> None:
    """Raise `ConfigError` for a pattern that is neither empty nor a regular expression with a group."""
    try:
        groups = re.compile(pattern).groups
    except re.error as error:
        raise ConfigError(name, pattern, f"is not a valid regular expression ({error})", "See Python's re.") from error
    remedy = "Put the part to use in parentheses, such as (.+)."
    require(not pattern or groups > 0, name, pattern, "has no group", remedy)
