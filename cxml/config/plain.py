"""Configs as plain mappings, which YAML files, manifests and fingerprints hold."""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import dacite

from cxml import urls
from cxml.config.run import AUTO, CHOOSABLE, Config
from cxml.errors import ConfigError

_DECIMAL = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?", re.ASCII)


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """Build a `Config` from nested mappings, as in a YAML file or a manifest.

    `Config.auto` names the `CHOOSABLE` fields that are missing or have the value `auto`, unless `values` contains a
    list `auto`.

    Raises:
        ConfigError: a key is unknown (the nearest known one is suggested), a type is wrong, or a value is invalid.
    """
    _learn_credentials(values)
    _refuse_unknown_keys(Config, values, "")
    open_names = [name for name in CHOOSABLE if _value_at(values, name, AUTO) == AUTO]
    if "auto" in values:  # missing fields have their default, which is `auto` for one field
        open_names = [name for name in open_names if _value_at(values, name) == AUTO != CHOOSABLE[name]]
    given = _without(values, open_names)
    given["auto"] = [*given.get("auto", ()), *(name for name in open_names if name not in given.get("auto", ()))]
    try:
        return dacite.from_dict(Config, given, dacite.Config(cast=[tuple], type_hooks={float: _to_float}))
    except dacite.MissingValueError as error:
        raise ConfigError(str(error.field_path), None, "is missing", "Add it to the config file.") from error
    except dacite.DaciteFieldError as error:
        value = getattr(error, "value", None)
        raise ConfigError(str(error.field_path), value, f"has the wrong type ({error})", "See --help.") from error


def saved_config(values: Mapping[str, Any]) -> Config:
    """Build the `Config` that a model or checkpoint was saved with.

    Fields that its version of cxml did not know have their defaults; none is left for the run to choose. Raises the
    errors of `config_from_dict`.
    """
    return config_from_dict({"auto": [], **values} if isinstance(values, Mapping) else values)


def _learn_credentials(values: object) -> None:
    """Remember the credentials of every URL in nested mappings, before any error shows one."""
    if isinstance(values, Mapping):
        for value in values.values():
            _learn_credentials(value)
    elif isinstance(values, str):
        urls.remember_credentials(values)


def config_to_dict(config: Config, *, with_credentials: bool = False) -> dict[str, Any]:
    """The plain mapping of `config` that `config_from_dict` reads back, with lists for tuples.

    Fields that the run chooses have the value `auto`. They are also listed in `auto` if `tree.level_sizes` has its
    default of the same name. Credentials are removed from URLs, so the mapping can be shown and saved;
    `with_credentials` keeps them.
    """
    text = str if with_credentials else urls.masked_value
    values: dict[str, Any]
    values = dataclasses.asdict(config, dict_factory=lambda pairs: {k: _plain(v, text) for k, v in pairs})
    is_told_apart = config.tree.level_sizes != AUTO or "tree.level_sizes" in config.auto
    if is_told_apart:
        del values["auto"]
    for name in config.auto:
        section, field_name = name.split(".")
        values[section][field_name] = AUTO
    return values


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


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """The config with new values for some fields, by dotted names; the run no longer chooses these fields.

    Raises:
        ConfigError: a field is unknown, or its value is invalid.
    """
    changed = config_to_dict(config, with_credentials=True)
    for name, value in values.items():
        *sections, last = name.split(".")
        place = changed
        for section in sections:
            place = place.get(section)
            if not isinstance(place, dict):
                raise ConfigError(name, value, "is not a known field", "See docs/reference/config.md.")
        place[last] = value
    if "auto" in changed:
        changed["auto"] = [name for name in changed["auto"] if name not in values]
    return config_from_dict(changed)


def plain_values(config: Config, names: Iterable[str]) -> dict[str, Any]:
    """The values of fields as in a config file, by dotted names."""
    values = config_to_dict(config, with_credentials=True)
    return {name: _value_at(values, name) for name in names}


def _value_at(values: Mapping[str, Any], name: str, default: object = None) -> object:
    """The value of a dotted name in nested mappings."""
    section, last = name.split(".")
    return (values.get(section) or {}).get(last, default)


def _without(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A copy of the two upper levels of `values` without the fields of these dotted names."""
    copied = {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    for name in names:
        section, last = name.split(".")
        copied.get(section, {}).pop(last, None)
    return copied


def _plain(value: object, text: Callable[[str], str]) -> object:
    if isinstance(value, str):
        return text(value)
    return [_plain(each, text) for each in value] if isinstance(value, tuple) else value


def _to_float(value: object) -> object:
    """Accept the number `1` and the text `5e-4` for a float field, but not Python's other spellings."""
    if type(value) is int or (isinstance(value, str) and _DECIMAL.fullmatch(value)):
        return float(value)
    return value


def _refuse_unknown_keys(section: type, values: object, path: str) -> None:
    if not isinstance(values, Mapping):
        raise ConfigError(
            path or "config", values, "is not a mapping of fields to values", "See configs/ for examples."
        )
    hints = typing.get_type_hints(section)
    for key, value in values.items():
        name = f"{path}.{key}".lstrip(".")
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1)
            known = f"Did you mean {near[0]}?" if near else f"Known fields: {', '.join(hints)}."
            raise ConfigError(name, value, "is not a known field", known)
        if dataclasses.is_dataclass(hints[key]):
            _refuse_unknown_keys(typing.cast(type, hints[key]), value, name)
        elif isinstance(value, Mapping):
            raise ConfigError(name, value, "is a mapping, which this field does not accept", "See --help.")
