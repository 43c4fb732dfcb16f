"""`python -m cxml.train` runs `cxml.commands.train`, and `cxml.train(texts, labels)` calls `cxml.fitting.train`."""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Any

from cxml.commands.train import main

if TYPE_CHECKING:
    from cxml.prediction import Predictor


class _CallableModule(types.ModuleType):
    """This module, which is also a function."""

    def __call__(self, *arguments: Any, **options: Any) -> Predictor:  # noqa: ANN401 - those of the function
        """See `cxml.fitting.train`."""
        from cxml.fitting import train  # noqa: PLC0415 - PyTorch takes seconds to load

        return train(*arguments, **options)


sys.modules[__name__].__class__ = _CallableModule


if __name__ == "__main__":
    sys.exit(main())
