"""Checks and descriptions of what is prepared: data sets and label trees.

In: the folder of a prepared data set or of a label tree.

1. `checks` reads a data set whole and checks all that its format promises.
2. `dataset_statistics` and `tree_statistics` count and draw.
3. `propensities` writes the inverse propensity of each label to a file.

Out: tables, pictures and files; nothing that is inspected changes.
"""
