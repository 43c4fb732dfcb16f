"""Write inverse propensities to a file."""

from __future__ import annotations

import io

import numpy as np

from cxml import storage
from cxml.data import DataManifest, read_label_table
from cxml.errors import ConfigError
from cxml.metrics import PropensityConstants, inverse_propensities


def write_inverse_propensities(url: str, out: str, a: float, b: float) -> np.ndarray:
    """Compute 1 / p_l of every label of the prepared data set under `url` and write them to `out`.

    Returns:
        float64 [L].

    Raises:
        ConfigError: the constants are not valid for this data set.
    """
    frequency = read_label_table(url).frequency
    try:
        weights = inverse_propensities(frequency, DataManifest.read(url).rows("train"), PropensityConstants(a, b))
    except ValueError as error:
        raise ConfigError("a, b", (a, b), str(error), "Choose other constants, or check the data set.") from error
    if out.endswith(".npy"):
        stream = io.BytesIO()
        np.save(stream, weights)
        storage.write_atomic(out, stream.getvalue())
    else:
        storage.write_atomic(out, "".join(f"{weight!r}\n" for weight in weights.tolist()).encode())
    return weights
