"""Training from Python: texts and labels in memory, or a path, to a `Predictor`.

In: lists, NumPy arrays, pandas or Arrow columns, or tables on disk; fields of the config, if any.

1. `tables` writes what is in memory as Parquet files in the run's output.
2. `train` makes the config and starts `process`, a process of its own that runs the stages up to the model: a script
   needs no `__main__` guard for it, and a notebook keeps its signals, its threads and its memory.
3. The model is loaded here. `CascadeClassifier` wraps this in scikit-learn's interface; `packing` makes it bytes for
   pickles.

Out: a `Predictor`.
"""

from cxml.fitting.train import train

__all__ = ["train"]
