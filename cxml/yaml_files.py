"""Strict YAML: decimal numbers, unique keys and no aliases.

YAML 1.1 reads `010` as 8, `1:30` as 90, `1_0` as 10 and `2026-01-01` as a date. It allows repeated keys, and aliases
that repeat a part of the file any number of times. Here numbers are decimal and finite, other spellings are strings,
and repeated keys and aliases are errors. Numbers and strings written by PyYAML keep their types.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from typing import Any, ClassVar

import yaml

from cxml import storage
from cxml.errors import DataError

_MOST_BYTES = 1 << 17
_PREFIX = "tag:yaml.org,2002:"
_BOOL, _NULL, _INT, _FLOAT = (_PREFIX + name for name in ("bool", "null", "int", "float"))
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})\Z", re.ASCII)
_DECIMAL = re.compile(r"(?:[-+]?[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+][0-9]+)?\Z", re.ASCII)


def read_yaml(file: str) -> Any:  # noqa: ANN401 - what the file holds
    """Read a YAML file at a path or fsspec URL: mappings, lists, strings, numbers, true, false and null.

    Raises:
        DataError: it is not valid YAML or is larger than 128 KiB, a key is repeated or not a string, or it uses aliases
            or custom types; names the line.
    """
    with storage.open_read(file) as stream:
        content = stream.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise DataError(file, "is larger than 128 KiB", "Give a YAML file.")
    try:
        return yaml.load(content, _Loader)
    except RecursionError as error:
        raise DataError(file, "is nested too deeply", "Correct the file.") from error
    except (yaml.YAMLError, KeyError) as error:  # KeyError: `!!bool` before another word
        mark = getattr(error, "problem_mark", None)
        line = mark and mark.line + 1
        raise DataError(file, f"is not valid YAML ({error})", "Correct the file.", line=line) from error


class _Loader(yaml.SafeLoader):
    """A loader of plain values; see the module."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag in (_BOOL, _NULL)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    yaml_constructors: ClassVar = {
        tag: constructor
        for tag, constructor in yaml.SafeLoader.yaml_constructors.items()
        if tag in (None, _BOOL, _NULL, *(_PREFIX + name for name in ("str", "seq", "map")))
    }

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:  # noqa: ANN401
        if self.check_event(yaml.AliasEvent):
            raise _problem("an alias is not supported; repeat the value", self.peek_event())
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _problem(f"the key {key!r} is not a string; put it in quotes", key_node)
            if key in seen:
                raise _problem(f"the key {key!r} occurs twice", key_node)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        text = str(self.construct_scalar(node))
        if _INTEGER.match(text):
            return int(text)
        if _DECIMAL.match(text) and math.isfinite(float(text)):
            return float(text)
        raise _problem(f"{text[:40]!r} is not a decimal number", node)


_Loader.add_constructor(_INT, _Loader.construct_number)
_Loader.add_constructor(_FLOAT, _Loader.construct_number)
_Loader.add_implicit_resolver(_INT, _INTEGER, list("-+0123456789"))
_Loader.add_implicit_resolver(_FLOAT, _DECIMAL, list("-+.0123456789"))


def _problem(what: str, place: Any) -> yaml.constructor.ConstructorError:  # noqa: ANN401 - a node or an event
    return yaml.constructor.ConstructorError(None, None, what, place.start_mark)
