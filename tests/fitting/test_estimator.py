"""`CascadeClassifier` works in scikit-learn's tools and passes those of its estimator checks that apply to texts.

Checks that fit on matrices of numbers do not apply: the input is a sequence of strings. The check of pickling runs
behind a step that turns numbers into texts. Oracle: scikit-learn's estimator checks.
"""

import copy
import pickle
import shutil

import joblib
import numpy as np
import psutil
import pytest
from joblib.externals.loky import get_reusable_executor
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MultiLabelBinarizer
from sklearn.utils import estimator_checks
from support.number_texts import texts_of_numbers
from support.runs import make_encoder
from support.untrained import untrained_export

from cxml import CascadeClassifier, Predictor
from cxml.errors import ConfigError, DataError

TEXTS = np.array([f"{word} or {word} {i}" for i in range(6) for word in ("violin", "hammer")])
CLASSES = np.array([name for _ in range(6) for name in ("music", "tools")])
APPLICABLE = (
    "check_estimator_cloneable",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_estimators_unfitted",
    "check_get_params_invariance",
    "check_mixin_order",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_set_params",
    "check_valid_tag_types",
)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    encoder = make_encoder(tmp_path_factory.mktemp("encoder"))
    fields = {"model.encoder": encoder, "train.epochs": 6, "train.precision": "fp32", "evaluate.precision": "fp32"}
    return CascadeClassifier(settings=fields)


def fresh(classifier):
    return CascadeClassifier(**classifier.get_params())


@pytest.mark.parametrize("name", APPLICABLE)
def test_scikit_learns_checks_that_need_no_numbers_pass(name):
    getattr(estimator_checks, name)("CascadeClassifier", CascadeClassifier())


def test_scikit_learns_check_of_pickling_passes_behind_a_step_that_makes_texts(classifier):
    pipeline = make_pipeline(FunctionTransformer(texts_of_numbers), fresh(classifier))
    estimator_checks.check_estimators_pickle("Pipeline", pipeline)


def test_it_cross_validates_in_a_pipeline(classifier):
    lower = FunctionTransformer(lambda texts: [text.lower() for text in texts])
    scores = cross_val_score(make_pipeline(lower, classifier), TEXTS, CLASSES, cv=2)
    assert len(scores) == 2
    assert scores.mean() > 0.6


def test_it_cross_validates_in_processes_of_joblib_and_leaves_nothing_behind(classifier, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    get_reusable_executor().shutdown(wait=True)  # new processes take the folder
    try:
        scores = cross_val_score(classifier, TEXTS, CLASSES, cv=2, n_jobs=2, error_score="raise")
    finally:
        get_reusable_executor().shutdown(wait=True)
    assert scores.mean() > 0.6
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("cxml-")]
    commands = [child.cmdline() for child in psutil.Process().children(recursive=True)]
    assert not [command for command in commands if "cxml.fitting.process" in command]


def test_indicators_go_in_and_come_out_sparse(classifier):
    binarizer = MultiLabelBinarizer(sparse_output=True)
    rows = [[name, "all"] for name in CLASSES]
    rows[3] = []
    fitted = fresh(classifier).fit(TEXTS, binarizer.fit_transform(rows))
    scores = fitted.predict_proba(TEXTS)
    assert sparse.issparse(scores)
    assert scores.shape == (12, 3)
    assert scores.data.min() >= 0
    assert scores.data.max() <= 1
    found = fitted.predict(TEXTS)
    assert sparse.issparse(found)
    np.testing.assert_array_equal(found.toarray(), scores.toarray() >= 0.5)
    columns = [list(binarizer.classes_).index(name) for name in CLASSES]
    np.testing.assert_array_equal(scores.toarray().argmax(1), columns)


def test_stored_and_copied_classifiers_predict_the_same_without_the_folder_of_the_model(tmp_path):
    untrained_export(tmp_path / "model", [str(place) for place in range(8)])
    fitted = CascadeClassifier(threshold=0.3)
    fitted.classes_, fitted.is_multilabel_ = np.array(list("abcdefgh")), False
    fitted.predictor_ = Predictor.from_pretrained(tmp_path / "model" / "exported")
    shutil.rmtree(tmp_path / "model")
    joblib.dump(fitted, tmp_path / "classifier.joblib")
    loaded = joblib.load(tmp_path / "classifier.joblib")
    for copied in (loaded, copy.deepcopy(fitted), pickle.loads(pickle.dumps(loaded))):
        assert copied.get_params() == fitted.get_params()
        expected = fitted.predict_proba(TEXTS).toarray()
        np.testing.assert_array_equal(copied.predict_proba(TEXTS).toarray(), expected)
        np.testing.assert_array_equal(copied.predict(TEXTS), fitted.predict(TEXTS))
        assert (expected > 0).any(axis=1).all()
    with pytest.raises(NotFittedError):
        clone(fitted).predict(TEXTS)


def test_a_damaged_model_in_a_state_is_refused(classifier):
    state = {**classifier.get_params(), "predictor_": {"manifest.json": b"{}"}}
    with pytest.raises(DataError):
        CascadeClassifier().__setstate__(state)


def test_targets_of_other_types_or_numbers_than_the_texts_are_refused(classifier):
    with pytest.raises(ConfigError, match="MultiLabelBinarizer"):
        fresh(classifier).fit(["a", "b"], [0.5, 1.7])
    with pytest.raises(ConfigError, match="3 rows, but there are 2 texts"):
        fresh(classifier).fit(["a", "b"], ["x", "y", "x"])


def test_a_classifier_that_is_not_fitted_refuses_to_predict():
    with pytest.raises(NotFittedError):
        CascadeClassifier().predict(["a"])
