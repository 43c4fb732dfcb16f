"""Checks and statistics of prepared data sets and label trees.

Input: the folder of a prepared data set or of a label tree.

1. `checks` reads a whole data set and validates it against the format.
2. `dataset_statistics` and `tree_statistics` compute statistics and plots.
3. `propensities` writes the inverse propensity of each label to a file.

Output: tables, plots and files. The inspected folder does not change.
"""
