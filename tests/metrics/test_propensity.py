"""Inverse propensities and the constants of published results.

Oracles: napkinxc, and the constants as the papers print them.
"""

import napkinxc.metrics as reference
import numpy as np
import pytest
from scipy import sparse

from cxml.metrics import DEFAULT_PROPENSITY, KNOWN_PROPENSITIES, PropensityConstants, inverse_propensities


@pytest.mark.parametrize("constants", sorted(set(KNOWN_PROPENSITIES.values())))
def test_weights_equal_those_of_napkinxc(constants):
    labels = sparse.random(200, 37, density=0.05, format="csr", random_state=3)
    labels.data[:] = 1
    frequency = np.asarray(labels.sum(axis=0)).ravel().astype(np.int64)
    expected = reference.Jain_et_al_inverse_propensity(labels, *constants)
    np.testing.assert_allclose(inverse_propensities(frequency, 200, constants), expected, rtol=1e-12)


def test_the_rarer_a_label_the_heavier_it_weighs():
    weights = inverse_propensities(np.arange(100), 1000)
    assert (np.diff(weights) < 0).all()
    assert (weights > 1).all()


def test_constants_are_those_of_the_published_results():
    assert tuple(DEFAULT_PROPENSITY) == (0.55, 1.5)
    assert tuple(KNOWN_PROPENSITIES["amazon-670k"]) == tuple(KNOWN_PROPENSITIES["amazon-3m"]) == (0.6, 2.6)
    assert tuple(KNOWN_PROPENSITIES["wiki-500k"]) == (0.5, 0.4)
    assert tuple(KNOWN_PROPENSITIES["wiki10-31k"]) == (0.55, 1.5)


@pytest.mark.parametrize("num_train", [1, 2])
def test_with_fewer_than_three_examples_all_labels_weigh_the_same(num_train):
    assert inverse_propensities(np.array([0, 1]), num_train).tolist() == [1, 1]


def test_no_examples_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        inverse_propensities(np.array([0]), 0)


@pytest.mark.parametrize("frequency", [-1, 11])
def test_impossible_frequencies_are_refused(frequency):
    with pytest.raises(ValueError, match="from 0 to 10"):
        inverse_propensities(np.array([3, frequency]), 10)


def test_an_unseen_label_has_no_weight_when_b_is_zero():
    constants = PropensityConstants(0.5, 0.0)
    assert np.isfinite(inverse_propensities(np.array([1]), 10, constants)).all()
    with pytest.raises(ValueError, match=r"data\.propensity_b = 0.*Use a number above 0"):
        inverse_propensities(np.array([0, 1]), 10, constants)
