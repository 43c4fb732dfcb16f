"""Label names as training texts: one row per name after the texts, with that label alone, in any requested order.

Oracles: the tokenizer applied to the names, and the two parts read separately (hypothesis draws the order).
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.runs import make_encoder, small_config

from cxml.data import Ragged, ShardedDataset, TextEncoder, load_tokenizer_of, read_label_table, with_names
from cxml.data.name_texts import WithNames, parts_of_names
from cxml.errors import ConfigError
from cxml.preparation import prepare


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("names")
    url = prepare(small_config(folder, make_encoder(folder / "encoder")))
    return url, ShardedDataset(url, "train")


def lists(ragged: Ragged) -> list[list[int]]:
    return [ragged.values[a:b].tolist() for a, b in zip(ragged.offsets, ragged.offsets[1:], strict=False)]


def test_each_name_is_one_more_row_of_its_label(prepared):
    url, dataset = prepared
    rows = with_names(dataset, url, "(.+)", max_length=32)
    tokenizer = load_tokenizer_of(dataset.manifest.tokenizer, url)
    names = read_label_table(url).names
    ids, labels = rows.gather(np.arange(len(dataset), len(rows)))
    assert len(rows) == len(dataset) + len(names)
    assert lists(labels) == [[label] for label in range(len(names))]
    assert lists(ids) == lists(TextEncoder(tokenizer, 32).encode(names))
    assert rows.lengths[len(dataset) :].tolist() == [len(each) for each in lists(ids)]


@given(order=st.data())
def test_rows_come_in_the_order_asked_for(prepared, order):
    _, dataset = prepared
    names = Ragged.from_lists([[7], [8, 9], [10, 11, 12]])
    rows = WithNames(dataset, names, np.array([2, 0, 5]))
    wanted = np.array(order.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=9)))
    ids, labels = rows.gather(wanted)
    for place, row in enumerate(wanted):
        one = (names.take(np.array([row - len(dataset)])), Ragged.from_lists([[(2, 0, 5)[row - len(dataset)]]])) \
            if row >= len(dataset) else dataset.gather(np.array([row]))  # fmt: skip
        assert [lists(ids)[place], lists(labels)[place]] == [lists(each)[0] for each in one]
        assert rows.lengths[row] == len(lists(ids)[place])


def test_the_group_is_taken_and_underscores_become_spaces():
    names = ["physical_entity.n.00001930", "n.1", "._.n.2", "run.v.3"]
    assert parts_of_names(names, r"^([^.]+)\.n\.\d+$") == {0: "physical entity"}


def test_a_pattern_that_finds_nothing_is_refused(prepared):
    url, dataset = prepared
    with pytest.raises(ConfigError, match="matches none"):
        with_names(dataset, url, "(never there)", max_length=32)
