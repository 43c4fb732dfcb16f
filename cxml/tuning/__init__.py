"""Hyperparameter search with Ray Tune.

Input: a config, and a search space.

1. `space` reads the search space.
2. `search` holds out texts and runs the trials. Each `Trial` runs one training in a separate process.

Output: the trials, best first, and the config with the best values.
"""

from cxml.tuning.search import search

__all__ = ["search"]
