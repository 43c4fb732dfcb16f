"""The source of neighbours: its votes do not depend on the lists and files that the texts are stored in.

Oracle: scikit-learn's brute-force neighbour search and a loop over the votes.
"""

import itertools
import json
import math

import numpy as np
import pytest
from scipy import sparse
from sklearn.neighbors import NearestNeighbors
from support.evidence import TREE, folder_of

from cxml.data import Ragged
from cxml.errors import DataError
from cxml.evidence import (
    LabelledVectors,
    LabelSubset,
    NeighbourSource,
    TextViews,
    indexed,
    list_centres,
    nearest_lists,
    unit_rows,
    write_lists,
    write_part,
)
from cxml.evidence import nearest as nearest_module
from cxml.evidence.neighbours import NEIGHBOURS, read_neighbours

NUM_TEXTS, WIDTH, NUM_LABELS = 600, 24, TREE.num_labels


def make_texts(seed=0, num_texts=NUM_TEXTS):
    """Texts around 12 centres, with one to three labels each."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(12, WIDTH))
    vectors = centres[generator.integers(12, size=num_texts)] + generator.normal(size=(num_texts, WIDTH))
    lists = [generator.choice(NUM_LABELS, generator.integers(1, 4), replace=False) for _ in range(num_texts)]
    return unit_rows(vectors).astype(np.float16), Ragged.from_lists([each.tolist() for each in lists])


def source_in(num_lists, cuts=(), temperature=0.1):
    """The texts as a source, in so many lists, in files that begin at `cuts`."""
    vectors, labels = make_texts()
    centres = list_centres(vectors, num_lists)
    bounds = [0, *cuts, NUM_TEXTS]
    parts = [
        LabelledVectors(vectors[a:b], nearest_lists(vectors[a:b], centres), labels.slice(a, b))
        for a, b in itertools.pairwise(bounds)
    ]
    return NeighbourSource(*indexed(parts, centres), NUM_LABELS, temperature), parts


@pytest.fixture(scope="module")
def queries():
    """Of any length: the search is by cosine."""
    return 3 * make_texts(seed=1, num_texts=40)[0].astype(np.float32)


def brute_force(queries, temperature):
    """Shares of the votes [N, L], by scikit-learn's search and a loop."""
    vectors, labels = make_texts()
    search = NearestNeighbors(n_neighbors=NEIGHBOURS, metric="cosine", algorithm="brute").fit(vectors.astype("f8"))
    distances, rows = search.kneighbors(queries.astype("f8"))
    shares = np.zeros((len(queries), NUM_LABELS))
    for text, (own, those) in enumerate(zip(distances, rows, strict=True)):
        votes = np.exp((1 - own) / temperature)
        for vote, row in zip(votes / votes.sum(), those, strict=True):
            shares[text, labels.values[labels.offsets[row] : labels.offsets[row + 1]]] += vote
    return shares


def as_shares(found, num_labels=NUM_LABELS):
    shares = np.zeros((len(found.labels), num_labels))
    rows, places = np.nonzero(found.labels >= 0)
    shares[rows, found.labels[rows, places]] = np.exp(found.scores[rows, places])
    return shares


@pytest.mark.parametrize("temperature", [0.03, 0.3])
@pytest.mark.parametrize(("num_lists", "cuts"), [(1, ()), (1, (100, 350)), (20, (250,))])
def test_labels_get_the_votes_of_a_brute_force_search(queries, num_lists, cuts, temperature):
    source, _ = source_in(num_lists, cuts, temperature)
    expected = brute_force(queries, temperature)
    found = source.propose(TextViews(features=queries), NUM_LABELS)
    np.testing.assert_allclose(as_shares(found), expected, atol=2e-3)
    assert (np.diff(np.exp(found.scores), axis=1) <= 0).all()
    best = source.propose(TextViews(features=queries), 4)
    np.testing.assert_array_equal(best.labels, found.labels[:, :4])


def test_a_search_of_some_lists_finds_most_of_what_an_exact_one_finds(queries, monkeypatch):
    monkeypatch.setattr(nearest_module, "PROBES", 4)
    some, _ = source_in(20)
    exact, _ = source_in(1)
    (found, _), (expected, _) = (each.index.search(queries, 10) for each in (some, exact))
    assert (found <= expected + 1e-6).all()
    assert np.isclose(found, expected, atol=1e-5).mean() > 0.7


def test_few_texts_are_searched_exactly_and_many_in_lists():
    assert nearest_module.num_lists(nearest_module.EXACT) == 1
    assert nearest_module.num_lists(1_000_000) == 4000


@pytest.fixture
def three_texts():
    """A source with fewer texts than a search has neighbours."""
    vectors, labels = make_texts(num_texts=3)
    texts = LabelledVectors(vectors, np.zeros(3, np.int32), labels)
    return NeighbourSource(*indexed([texts], list_centres(vectors, 1)), NUM_LABELS, 0.1)


def test_fewer_texts_than_neighbours_share_all_votes(three_texts, queries):
    found = as_shares(three_texts.propose(TextViews(features=queries), 5))
    assert (found.sum(1) >= 1 - 1e-6).all()


def test_no_queries_get_no_proposals(three_texts, queries):
    assert three_texts.propose(TextViews(features=queries[:0]), 5).labels.shape == (0, 5)


def test_a_query_of_zeros_gets_finite_scores(three_texts):
    zeros = three_texts.propose(TextViews(features=np.zeros((1, WIDTH), np.float32)), 5)
    assert (zeros.labels >= 0).any()
    assert np.isfinite(zeros.scores[zeros.labels >= 0]).all()


def test_a_restricted_source_gives_the_scores_of_before(queries):
    source, _ = source_in(20)
    kept = np.array([1, 4, 5, 19, 28])
    restricted = source.restricted(LabelSubset(TREE, [], kept))
    before = as_shares(source.propose(TextViews(features=queries), NUM_LABELS))
    found = as_shares(restricted.propose(TextViews(features=queries), 5), len(kept))
    np.testing.assert_allclose(found, before[:, kept], rtol=1e-5)


def test_the_temperature_is_the_one_that_ranks_best(queries):
    source, _ = source_in(1)
    sharp = source.propose(TextViews(features=queries), 1).labels[:, 0]
    truth = sparse.csr_matrix((np.ones(len(sharp)), (np.arange(len(sharp)), sharp)), (len(sharp), NUM_LABELS))
    own = brute_force(queries, 0.01).argmax(1)
    sharpest = sparse.csr_matrix((np.ones(len(own)), (np.arange(len(own)), own)), (len(own), NUM_LABELS))
    assert source.tuned(queries, sharpest).temperature == pytest.approx(0.01)
    assert source.tuned(queries, truth).temperature == pytest.approx(0.1)


def test_what_is_written_is_read_whole_by_one_part_or_several(queries, tmp_path):
    source, parts = source_in(20, (100, 350))
    expected = source.propose(TextViews(features=queries), 10)
    source.write(str(tmp_path / "one"))
    for number, part in enumerate(parts):
        write_part(str(tmp_path / "several"), number, part)
    write_lists(str(tmp_path / "several"), source.index.centres, source.parameters)
    for name in ("one", "several"):
        again = read_neighbours(folder_of(tmp_path / name), TREE)
        assert again.num_bytes == source.num_bytes
        found = again.propose(TextViews(features=queries), 10)
        np.testing.assert_array_equal(found.labels, expected.labels)
        np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-6)


@pytest.mark.parametrize("change", ["label", "list", "width", "offsets", "temperature", "no parts", "nan", "inf"])
def test_files_that_do_not_fit_are_refused_by_name(tmp_path, change):
    source, (texts,) = source_in(20)
    centres, parameters = source.index.centres, source.parameters
    labels = texts.labels
    if change == "label":
        texts = texts._replace(labels=Ragged(labels.values + 1, labels.offsets))
    if change == "list":
        texts = texts._replace(lists=texts.lists + 1)
    if change == "width":
        texts = texts._replace(vectors=texts.vectors[:, 1:])
    if change == "offsets":
        texts = texts._replace(labels=Ragged(labels.values[1:], labels.offsets))
    if change != "no parts":
        write_part(str(tmp_path), 0, texts)
    if change == "nan":
        centres = np.where(np.arange(centres.size).reshape(centres.shape) == 7, np.nan, centres).astype(np.float32)
    parameters = {"temperature": [0.0], "inf": [math.inf]}.get(change, parameters)
    write_lists(str(tmp_path), centres, parameters)
    file = "lists" if change in ("temperature", "nan", "inf") else "part-00000"
    with pytest.raises(DataError, match=rf"{file}\.safetensors.*Do it again"):
        read_neighbours(folder_of(tmp_path), TREE)


def test_vectors_are_stored_as_plain_fp16(tmp_path):
    source, _ = source_in(1)
    source.write(str(tmp_path))
    header = (tmp_path / "part-00000.safetensors").read_bytes()
    size = int.from_bytes(header[:8], "little")
    tensors = json.loads(header[8 : 8 + size])
    assert tensors["vectors"]["dtype"] == "F16"
    assert tensors["vectors"]["shape"] == [NUM_TEXTS, WIDTH]
