"""The linear baseline (omikuji's Parabel) on texts that a linear model separates.

Oracle: the known labels of those texts.
"""

import sys

import numpy as np
import pytest
from scipy import sparse

from cxml.errors import ConfigError, CxmlError
from cxml.metrics import metric_sums
from cxml.report import linear_baseline


def separable(num_rows, num_labels, seed):
    """Texts of a word per label and noise words: a linear model can tell the labels."""
    rng = np.random.default_rng(seed)
    labels = sparse.csr_matrix(np.eye(num_labels)[rng.integers(0, num_labels, num_rows)])
    noise = sparse.random(num_rows, 20, density=0.1, random_state=seed, format="csr")
    return sparse.csr_matrix(sparse.hstack([labels, noise]), dtype=np.float32), labels


def test_the_baseline_learns_what_is_linearly_separable():
    train_features, train_labels = separable(600, 12, seed=0)
    test_features, test_labels = separable(100, 12, seed=1)
    predicted = linear_baseline(train_features, train_labels, test_features, 3, num_threads=1)
    assert predicted.shape == (100, 3)
    assert metric_sums(predicted, test_labels, (1,)).result()["P@1"] == 100


def test_texts_without_a_known_word_are_predicted_and_left_out_of_training():
    features, labels = separable(200, 5, seed=0)
    features = sparse.csr_matrix(sparse.vstack([sparse.csr_matrix((3, 25)), features[3:]]), dtype=np.float32)
    predicted = linear_baseline(features, labels, sparse.csr_matrix((2, 25), dtype=np.float32), 2, num_threads=1)
    assert ((predicted >= 0) & (predicted < 5)).all()


def test_fewer_labels_than_asked_for_are_filled_up_with_none():
    features, labels = separable(50, 3, seed=0)
    predicted = linear_baseline(features, labels, features[:4], 8, num_threads=1)
    assert (np.sort(predicted, axis=1)[:, -3:] == [0, 1, 2]).all()
    assert (np.sort(predicted, axis=1)[:, :-3] == -1).all()


def test_a_missing_omikuji_names_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "omikuji", None)
    features, labels = separable(10, 2, seed=0)
    with pytest.raises(ConfigError, match=r"pip install 'cxml\[quickstart\]'"):
        linear_baseline(features, labels, features, 1)


def test_a_failed_worker_is_an_error_with_its_last_words():
    features, labels = separable(50, 2, seed=0)
    wider = sparse.csr_matrix(np.ones((1, 100), dtype=np.float32))
    with pytest.raises(CxmlError, match=r"exit code 1(.|\n)*Incorrect feature index"):
        linear_baseline(features, labels, wider, 1, num_threads=1)
