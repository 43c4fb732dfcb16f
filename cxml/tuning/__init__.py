"""Hyperparameter search with Ray Tune.

`space` reads the search space, `Trial` runs one training in a separate process, `search` splits off held-out texts,
runs the trials and writes the best config.
"""

from cxml.tuning.search import search

__all__ = ["search"]
