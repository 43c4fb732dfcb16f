"""Texts of random words and a tree over their labels."""

import numpy as np
import pytest
from support.random_words import random_texts

from cxml.tree import LabelTree


@pytest.fixture(scope="session")
def texts():
    return random_texts()


@pytest.fixture(scope="session")
def tree():
    """Two levels of clusters over 24 labels, in an order that is not that of the label ids."""
    order = np.random.default_rng(1).permutation(24).astype(np.int32)
    return LabelTree(order, (np.array([0, 2, 5]), np.array([0, 3, 9, 12, 20, 24])))
