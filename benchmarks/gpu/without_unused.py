"""Import this where packages are missing that cxml imports and a training step does not use.

A machine without a network may lack small packages. A package that stands in for one can be imported, and what is
taken from it fails when it is called.
"""

import importlib.util
import sys
from types import ModuleType

_UNUSED = ("dacite", "tenacity", "tyro")


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (Exception,), {"__init__": lambda *_, **__: _fail(self.__name__)})


def _fail(package: str) -> None:
    raise ModuleNotFoundError(f"{package} is not installed, and was thought to be unused here")


for _name in _UNUSED:
    if importlib.util.find_spec(_name) is None:
        sys.modules[_name] = _StandIn(_name)
