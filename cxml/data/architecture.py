"""Read an encoder's architecture from untrusted JSON: numbers and layer names are accepted, names of code are not.

transformers downloads and runs code that a config names, as in `auto_map` or `attn_implementation: "owner/kernel:fn"`.
The fields differ between releases, so this module accepts fields by the type of their values instead of a deny list.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from typing import Any

os.environ.setdefault("USE_HUB_KERNELS", "0")  # some models of transformers download kernels during construction

from transformers import CONFIG_MAPPING, PretrainedConfig

from cxml.errors import DataError

_ROPE = ("rope_parameters", "rope_scaling")
_UNDECLARED = ("norm_rel_ebd", "conv_act")
"""Words that models of transformers (DeBERTa) read, although no config class declares them."""
_PLAIN_WORD = re.compile(r"[^/:\\]{0,64}")  # excludes paths and names of repositories and their functions
_MOST_INT = 1 << 31
_COUNTS = re.compile(r"layer|block|group|expert|depth|stage")
_ABOVE_0 = re.compile(r"num_.*(heads|layers)|(hidden|intermediate|vocab)_size")


def read_architecture(values: Mapping[str, Any], file: str, remedy: str) -> PretrainedConfig:
    """The encoder's architecture from the `values` of a `config.json`.

    Numbers are accepted in all fields, words and lists of words in fields specific to the model type and in those of
    `_UNDECLARED`. All other fields (implementations, quantisation, nested models) are ignored.

    Raises:
        DataError: transformers has no text encoder of this type, or a value of one of its fields is invalid.
    """
    kind = values.get("model_type")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise DataError(file, f"has the unknown model_type {str(kind)[:80]!r}", remedy)
    config_class = CONFIG_MAPPING[kind]
    own = _own_fields(config_class)
    nested = getattr(config_class, "sub_configs_defaults", config_class.sub_configs)  # the second name is older
    if nested or not {"vocab_size", "hidden_size"} <= own:
        raise DataError(file, f"the model_type {kind!r} is not a text encoder", remedy)
    for name in own & values.keys():
        value = values[name]
        if not isinstance(value, dict) and not _is_plain(value, nesting=3):
            raise DataError(file, f"{name} is not valid: {str(value)[:80]}", remedy)
    passed = {name: value for name, value in values.items() if _may_pass(name, value, config_class, own)}
    try:
        return config_class(**passed)
    except Exception as error:  # the validation of model types raises many kinds of errors
        raise DataError(file, f"its architecture is not valid ({str(error)[:300]})", remedy) from error


def check_counts(architecture: PretrainedConfig, num_tensors: int, file: str, remedy: str) -> None:
    """Check sizes: none may be below 1, and more layers than tensors would take forever to build.

    Raises:
        DataError: a size is not valid; names the field.
    """
    fields = {**vars(architecture), "num_hidden_layers": getattr(architecture, "num_hidden_layers", 0)}
    for name, value in fields.items():
        if isinstance(value, int) and _COUNTS.search(name) and value > num_tensors:
            raise DataError(file, f"{name} is {value}, but there are {num_tensors} tensors", remedy)
        if isinstance(value, int) and _ABOVE_0.fullmatch(name) and value < 1:
            raise DataError(file, f"{name} is {value}", remedy)


def _own_fields(config_class: type[PretrainedConfig]) -> set[str]:
    """The fields specific to a model type, under both of their names."""
    names = {field.name for field in dataclasses.fields(config_class)}
    names -= {field.name for field in dataclasses.fields(PretrainedConfig)}
    return names | {general for general, own in config_class.attribute_map.items() if own in names}


def _may_pass(name: str, value: object, config_class: type[PretrainedConfig], own: set[str]) -> bool:
    if name.startswith("_") or callable(getattr(config_class, name, None)):
        return False
    if name in _ROPE:
        return _is_plain(value, nesting=2)
    if name in _UNDECLARED:
        return _is_plain(value, nesting=0)
    if name in own:
        return not isinstance(value, dict)
    return _is_number(value) and not isinstance(getattr(config_class, name, None), property)


def _is_plain(value: object, nesting: int) -> bool:
    """Whether a value consists of numbers and words, at most `nesting` lists or objects deep."""
    if isinstance(value, str):
        return _PLAIN_WORD.fullmatch(value) is not None
    if isinstance(value, list | tuple | dict):
        items = value.values() if isinstance(value, dict) else value
        return nesting > 0 and all(_is_plain(item, nesting - 1) for item in items)
    return value is None or _is_number(value)


def _is_number(value: object) -> bool:
    """Whether a value is a number; integers, which may be sizes, have 31 bits."""
    return isinstance(value, float) or (isinstance(value, int) and -_MOST_INT < value < _MOST_INT)
