"""Search for the values of a config's fields with Ray Tune.

`space` reads what to draw from, `Trial` runs one training as a process of its own, `search` holds texts out, runs the
trials and writes down the best.
"""

from cxml.tuning.search import search

__all__ = ["search"]
