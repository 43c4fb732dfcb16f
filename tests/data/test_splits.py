"""Validation texts: held out of the train split, the same for every run, and never trained on.

Oracle: train and validation rows together are the rows of the whole split (hypothesis draws sizes and shares).
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxml.data import Ragged, ShardedDataset, held_out_rows, train_texts, validation_texts
from cxml.data.name_texts import WithNames
from cxml.errors import ConfigError
from cxml.preparation.validation_split import hold_out


@pytest.fixture(scope="module")
def prepared(write_data, tmp_path_factory):
    """The URL of a data set of 41 train texts."""
    return write_data(str(tmp_path_factory.mktemp("held_out") / "data"), 41, shard_rows=10).url


@given(num_rows=st.integers(1, 500), fraction=st.floats(0, 1), seed=st.integers(0, 5))
def test_every_row_is_either_kept_or_held_out(num_rows, fraction, seed):
    kept, held = held_out_rows(num_rows, fraction, seed)
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(num_rows))
    assert len(held) == round(num_rows * fraction)
    assert (np.diff(kept) > 0).all()
    assert (np.diff(held) > 0).all()


def test_the_train_texts_without_the_validation_texts_are_what_is_trained_on(prepared):
    url = prepared
    whole = ShardedDataset(url, "train")
    kept, held = train_texts(url, 0.3), validation_texts(url, 0.3)
    assert held is not None
    assert len(held) == round(0.3 * len(whole))
    rows = np.concatenate([kept.rows, held.rows])
    assert sorted(rows.tolist()) == list(range(len(whole)))
    for part in (kept, held):
        for own, of_whole in zip(part.gather(np.arange(len(part))), whole.gather(part.rows), strict=True):
            np.testing.assert_array_equal(own.values, of_whole.values)
            np.testing.assert_array_equal(own.offsets, of_whole.offsets)
        np.testing.assert_array_equal(part.lengths, whole.lengths[part.rows])
        np.testing.assert_array_equal(part.label_counts, whole.label_counts[part.rows])
        np.testing.assert_array_equal(part.labels_csr().toarray(), whole.labels_csr()[part.rows].toarray())


def test_without_a_share_or_a_split_there_are_no_validation_texts(prepared):
    assert validation_texts(prepared, 0.0) is None
    assert len(train_texts(prepared, 0.0)) == len(ShardedDataset(prepared, "train"))


def test_names_are_trained_on_beside_the_texts_that_are_kept(prepared):
    kept = train_texts(prepared, 0.3)
    both = WithNames(kept, Ragged.from_lists([[7], [8, 9]]), np.array([3, 5]))
    assert len(both) == len(kept) + 2
    ids, labels = both.gather(np.array([len(kept) - 1, len(kept) + 1]))
    np.testing.assert_array_equal(ids.slice(0, 1).values, kept.gather(np.array([len(kept) - 1]))[0].values)
    assert (ids.slice(1, 2).values.tolist(), labels.slice(1, 2).values.tolist()) == ([8, 9], [5])


def test_a_validation_split_serves_as_it_is_and_allows_no_share_beside_it(prepared, tmp_path):
    cut = str(tmp_path / "cut")
    hold_out(prepared, cut, fraction=0.2, seed=0)
    given = validation_texts(cut, 0.0)
    assert len(given) == len(ShardedDataset(cut, "validation"))
    assert len(train_texts(cut, 0.0)) + len(given) == len(ShardedDataset(prepared, "train"))
    with pytest.raises(ConfigError, match="has a validation split already"):
        train_texts(cut, 0.2)


@pytest.mark.parametrize(("share", "words"), [(1e-9, "no text to validate on"), (1 - 1e-9, "no text to train on")])
def test_a_share_that_leaves_one_side_empty_is_refused(prepared, share, words):
    with pytest.raises(ConfigError, match=words):
        validation_texts(prepared, share)
