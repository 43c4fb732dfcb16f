"""The effects of config fields, and the fields that are part of a fingerprint."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from cxml.config.fields import Effect
from cxml.config.plain import config_to_dict
from cxml.config.run import Config


def effects(section: type) -> dict[str, Effect]:
    """The effect of each field of a section, by name."""
    return {each.name: each.metadata.get("effect", "result") for each in dataclasses.fields(section)}


def fingerprint_fields(config: Config, section: str) -> dict[str, Any]:
    """The fields of a section that are part of its fingerprint, as plain values without credentials."""
    return _fingerprint_fields(getattr(config, section), config_to_dict(config)[section])


def _fingerprint_fields(section: Any, values: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ANN401 - any section
    found = {}
    for each in dataclasses.fields(section):
        value = getattr(section, each.name)
        is_uncounted = each.metadata.get("since_files", False) and value == each.default
        if each.metadata.get("effect") != "none" and not is_uncounted:
            is_section = dataclasses.is_dataclass(value)
            found[each.name] = _fingerprint_fields(value, values[each.name]) if is_section else values[each.name]
    return found
