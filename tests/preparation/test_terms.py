"""Tf-idf computed shard by shard equals scikit-learn's `TfidfVectorizer` on all texts (hypothesis draws texts)."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer

from cxml.config import SourceConfig
from cxml.data.terms import Vocabulary, add_counts, find_terms
from cxml.errors import DataError
from cxml.formats import read_source

texts_strategy = st.lists(
    st.text(alphabet=st.sampled_from("aAbBßİΣσς_1é٣ -.\n\u0301\u2028漢"), max_size=12), min_size=1, max_size=12
)


def fit(texts, max_features=10**6, parts=1):
    tables = [find_terms(texts[part::parts]).table() for part in range(parts) if texts[part::parts]]
    return Vocabulary.choose(add_counts(tables), len(texts), max_features)


def sklearn_fit(texts, **settings_):
    return TfidfVectorizer(token_pattern=r"(?u)\b\w+\b", sublinear_tf=True, **settings_).fit(texts)


@pytest.fixture(scope="module")
def real(wordnet_slice):
    raw = read_source(SourceConfig(path=str(wordnet_slice)))
    return raw.splits["train"].texts, raw.splits["test"].texts


@pytest.mark.parametrize("parts", [1, 7])
def test_real_texts_give_scikit_learns_vocabulary_and_matrix(real, parts):
    train, test = real
    oracle = sklearn_fit(train)
    vocabulary = fit(train, parts=parts)
    assert vocabulary.terms == oracle.get_feature_names_out().tolist()
    for texts in (train, test):
        features = vocabulary.features(find_terms(texts))
        np.testing.assert_allclose(features.toarray(), oracle.transform(texts).toarray(), atol=1e-6)
    assert vocabulary.features(find_terms(test)).dtype == np.float32
    assert vocabulary.features(find_terms(test)).has_sorted_indices


@settings(deadline=None, max_examples=200)
@given(texts=texts_strategy, parts=st.integers(1, 4))
def test_any_texts_cut_in_any_way_give_what_scikit_learn_gives(texts, parts):
    try:
        oracle = sklearn_fit(texts)
    except ValueError:
        with pytest.raises(DataError, match="no tf-idf vocabulary"):
            fit(texts, parts=parts)
        return
    vocabulary = fit(texts, parts=parts)
    assert vocabulary.terms == oracle.get_feature_names_out().tolist()
    features = vocabulary.features(find_terms(texts))
    np.testing.assert_allclose(features.toarray(), oracle.transform(texts).toarray(), atol=1e-6)


def test_the_most_frequent_terms_stay_and_ties_go_to_the_first(real):
    train, _ = real
    counts = {}
    for term, count in zip(*(column.to_pylist() for column in find_terms(train).table().columns[:2]), strict=True):
        counts[term] = count
    expected = sorted(sorted(counts, key=lambda term: (-counts[term], term))[:100])
    assert fit(train, 100).terms == expected


def test_more_texts_than_are_worked_on_at_once_change_nothing(real, monkeypatch):
    train, test = real
    whole = fit(train)
    monkeypatch.setattr("cxml.data.terms._TEXTS_AT_ONCE", 11)
    pieces = fit(train)
    assert pieces.terms == whole.terms
    np.testing.assert_array_equal(pieces.idf, whole.idf)
    assert (pieces.features(find_terms(test)) != whole.features(find_terms(test))).nnz == 0
