"""Training from Python: texts and labels in memory, or a path, to a `Predictor`.

Input: lists, NumPy arrays, pandas or Arrow columns, or tables on disk; optional fields of the config.

1. `tables` writes data in memory as Parquet files in the run's output.
2. `train` makes the config and starts `process`, a separate process that runs all stages up to the model. Scripts
   therefore need no `__main__` guard, and the signals, threads and memory of a notebook are not affected.
3. The model is loaded in the calling process. `CascadeClassifier` wraps it in scikit-learn's interface; `packing`
   turns it into bytes for pickles.

Output: a `Predictor`.
"""

from cxml.fitting.train import train

__all__ = ["train"]
