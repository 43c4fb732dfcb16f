"""The commands of prepared data sets and label trees: make, check, show and split them.

`cxml.data_tools` finds its modules here, so `python -m cxml.data_tools.prepare` runs `prepare` of this package.
"""
