"""Numbers as texts, for checks of other libraries that only pass matrices."""

import numpy as np


def texts_of_numbers(matrix: np.ndarray) -> list[str]:
    """A text for each row. The function is at module level so that a pickle can refer to it."""
    return [" ".join(f"number {value:.1f}" for value in row) for row in matrix]
