"""Numbers as texts, for checks of other libraries that know matrices alone."""

import numpy as np


def texts_of_numbers(matrix: np.ndarray) -> list[str]:
    """A text for each row; at module level, so that a pickle can name it."""
    return [" ".join(f"number {value:.1f}" for value in row) for row in matrix]
