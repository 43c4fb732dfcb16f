"""cxml: extreme multi-label text classification with CascadeXML, trained at any scale.

The stages of a run. Each arrow is a stage whose result is stored and reused:

    raw text + labels --cxml.preparation--> Arrow shards --cxml.tree--> label tree --cxml.training--> model --> metrics

Packages, in the order of the data flow: `data` (shards to batches), `tree` (labels to clusters), `model`
(the cascade), `optim`, `parallel` (processes, DeepSpeed), `checkpoint`, `training`, `metrics`, `report`. `pipeline`
runs the stages. The command lines are in `commands`; `cxml train` or `python -m cxml.train` starts a run.
`cxml.Predictor` predicts with trained models.

In Python, `cxml.train(texts, labels)` trains a model and returns a `Predictor`; `cxml.CascadeClassifier` is a
scikit-learn classifier.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cxml.fitting import train
    from cxml.fitting.estimator import CascadeClassifier
    from cxml.prediction import Predictor

__all__ = ["CascadeClassifier", "Predictor", "train"]
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the library's own names, loaded when they are first asked for
    if name == "Predictor":
        from cxml.prediction import Predictor  # noqa: PLC0415 - PyTorch takes seconds to load

        return Predictor
    if name == "CascadeClassifier":
        from cxml.fitting.estimator import CascadeClassifier  # noqa: PLC0415 - so does scikit-learn

        return CascadeClassifier
    if name == "train":
        return importlib.import_module("cxml.train")  # a callable module, for `python -m cxml.train`
    raise AttributeError(f"module 'cxml' has no attribute {name!r}")
