"""`validate` accepts a correct data set and names the row or file of each violation of the format.

Oracle: a hand-written data set with one violation at a time.
"""

from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

from cxml.data import DatasetWriter, Examples, Ragged, TokenizerInfo
from cxml.errors import DataError
from cxml.inspection.checks import validate
from cxml.preparation import prepare

SOUND = Examples(
    input_ids=Ragged.from_lists([[1, 5, 2], [1, 6, 7, 2], [1, 2]]),
    labels=Ragged.from_lists([[0, 3], [1], [2, 3]]),
    features=sparse.csr_matrix(np.array([[0.6, 0, 0.8], [0, 1, 0], [0, 0, 0]], np.float32)),
    texts=["a", "b", "c"],
)


def write(url, examples, frequency=(1, 1, 1, 2)):
    writer = DatasetWriter(url)
    writer.write_labels(["w", "x", "y", "z"], np.array(frequency))
    writer.write_shard("train", examples)
    writer.commit(
        fingerprint="f", config={}, tokenizer=TokenizerInfo("t", "f", 0, 10), num_features=3, source={"kind": "test"}
    )
    return url


def test_a_sound_set_passes_and_its_manifest_comes_back(tmp_path):
    assert validate(write(str(tmp_path), SOUND)).rows("train") == 3


def csr(indices, values, offsets):
    return sparse.csr_matrix((np.array(values, np.float32), np.array(indices), np.array(offsets)), (3, 3))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"labels": Ragged.from_lists([[0, 3], [1], [3, 2]])}, "row 2: labels are not sorted and unique"),
        ({"labels": Ragged.from_lists([[0, 3], [1, 1], [2]])}, "row 1: labels are not sorted and unique"),
        ({"labels": Ragged.from_lists([[0, 3], [4], [2]])}, r"row 1: labels are not all in 0\.\.3"),
        ({"labels": Ragged.from_lists([[-1, 3], [1], [2]])}, r"row 0: labels are not all in 0\.\.3"),
        ({"labels": Ragged.from_lists([[0, 3], [], [2, 3]])}, "row 1: labels is empty"),
        ({"input_ids": Ragged.from_lists([[1], [1, 10], [1]])}, r"row 1: input_ids are not all in 0\.\.9"),
        ({"input_ids": Ragged.from_lists([[], [1], [1]])}, "row 0: input_ids is empty"),
        ({"features": csr([0, 2, 1], [0.6, 0.6, 1], [0, 2, 3, 3])}, "row 0: tfidf_values are not of length 1"),
        ({"features": csr([0, 2, 1], [0.6, np.nan, 1], [0, 2, 3, 3])}, "row 0: tfidf_values are not all finite"),
        ({"features": csr([2, 0, 1], [0.6, 0.8, 1], [0, 2, 3, 3])}, "row 0: tfidf_indices are not sorted and unique"),
        ({"features": csr([0, 3, 1], [0.6, 0.8, 1], [0, 2, 3, 3])}, r"row 0: tfidf_indices are not all in 0\.\.2"),
    ],
)
def test_what_the_format_forbids_is_named_with_its_row(tmp_path, change, problem):
    url = write(str(tmp_path), replace(SOUND, **change))
    with pytest.raises(DataError, match=rf"split train, {problem} \(1 such rows in its shard\)"):
        validate(url)


def test_wrong_frequencies_are_refused(tmp_path):
    url = write(str(tmp_path), SOUND, frequency=(1, 1, 3, 2))
    with pytest.raises(DataError, match=r"label 2 has 1 train texts, but labels\.arrow differs"):
        validate(url)


def test_a_changed_byte_is_refused_and_its_file_named(make_config, tmp_path):
    url = prepare(make_config())
    validate(url)
    shard = tmp_path / "run/data/test/shard-00000.arrow"
    content = bytearray(shard.read_bytes())
    content[1000] ^= 4
    shard.write_bytes(content)
    with pytest.raises(DataError, match=r"test/shard-00000\.arrow: its checksum"):
        validate(url)
