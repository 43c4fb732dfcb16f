"""Stand-ins for packages that cxml imports and a training step does not use; import this where they are missing.

A machine without a network may lack small packages. A stand-in can be imported, but what is taken from it raises an
error when it is called. Two exceptions serve a checkpoint on a local disk: dacite's `from_dict` builds dataclasses
without checks, from data that this machine has written itself, and tenacity's retry tries once.
"""

import dataclasses
import importlib.util
import sys
import typing
from collections.abc import Callable, Mapping
from types import ModuleType


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Exception,), {"__init__": lambda *_, **__: _fail(self.__name__)})


def _fail(package: str) -> None:
    raise ModuleNotFoundError(f"{package} is not installed; only code that does not use it can run here")


def _nothing(*_: object, **__: object) -> None:
    pass


def _from_dict(kind: type, values: Mapping[str, object], _: object = None) -> object:
    hints = typing.get_type_hints(kind)
    return kind(**{name: _decode(hints[name], value) for name, value in values.items()})


def _decode(hint: typing.Any, value: typing.Any) -> object:  # noqa: ANN401
    kind, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return _from_dict(typing.cast(type, hint), value)
    if kind is tuple:
        return tuple(_decode(arguments[0], each) for each in value)
    if kind is dict:
        return {name: _decode(arguments[1], each) for name, each in value.items()}
    return value


class _Once:
    def __init__(self, **_: object) -> None:
        pass

    def __call__(self, action: Callable[[], object]) -> object:
        return action()


_USED: dict[str, dict[str, object]] = {
    "dacite": {"from_dict": _from_dict, "Config": _nothing},
    "tenacity": {
        "Retrying": _Once, "retry_if_exception": _nothing, "stop_after_attempt": _nothing,
        "wait_random_exponential": _nothing,
    },
    "tyro": {},
}  # fmt: skip

for _name, _parts in _USED.items():
    if importlib.util.find_spec(_name) is None:
        sys.modules[_name] = _StandIn(_name)
        vars(sys.modules[_name]).update(_parts)
