"""Label features built in parts equal those built at once; parts are balanced and restartable.

Oracle: the same features in one process.
"""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.datasets import random_rows, write_dataset

from cxml.config import TreeConfig, config_from_dict
from cxml.data import ShardedDataset
from cxml.tree import features_of_labels, pifa
from cxml.tree.distributed import BuildJournal, parts
from cxml.tree.distributed.build import make_job
from cxml.tree.distributed.parts import Job, PartMaker, label_work, part_bounds
from cxml.tree.kmeans import initial_order


@given(st.lists(st.integers(0, 50), min_size=1, max_size=80), st.integers(1, 9), st.integers(1, 60))
def test_parts_cover_all_labels_in_order_and_none_has_more_work_than_allowed_and_one_label(work, least, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "_LEAST_ENTRIES", least)
        patch.setattr(parts, "_MOST_ENTRIES", max(least, most))
        bounds = part_bounds(np.array(work))
    assert (bounds[0], bounds[-1]) == (0, len(work))
    assert (np.diff(bounds) > 0).all()
    assert all(sum(work[a:b]) <= max(least, most) + max(work) for a, b in pairwise(bounds))


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "_LEAST_ENTRIES", 500)
    rng = np.random.default_rng(1)
    labels, features = random_rows(rng, 300, 90, 3), random_rows(rng, 300, 40, 8)
    data = write_dataset(tmp_path / "set", {"train": (labels, features)}, shard_rows=70)
    work = label_work(data, ShardedDataset(data, "train"))[initial_order(90, 3)]
    return Job(data, str(tmp_path / "tree"), TreeConfig(feature_top_k=12), 3, part_bounds(work), 40)


def finished_features(job):
    maker = PartMaker(job)
    for kind in job.kinds:
        for part in range(job.num_parts):
            PartMaker(job).make(kind, part)
        assert BuildJournal(job.tree_url).finished_parts(kind) == set(range(job.num_parts))
    whole = maker.read(0, 90)
    assert (maker.read(13, 60) != whole[13:60]).nnz == 0
    return whole


def test_the_parts_together_are_the_features_of_the_whole_in_tree_order(job):
    dataset = ShardedDataset(job.data_url, "train")
    expected = pifa(dataset.labels_csr(), dataset.features_csr(), 12)[initial_order(90, 3)]
    assert job.num_parts > 3
    assert (finished_features(job) != expected).nnz == 0


def test_parts_smoothed_over_the_graph_with_names_beside_them_are_what_one_process_makes(job):
    tree = {"feature_top_k": 12, "walk_length": 60, "walk_max_frequency": 25, "name_features": "tfidf"}
    data = {"source": {"kind": "icd10cm"}, "directory": job.data_url}
    config = config_from_dict({"auto": [], "output": "none", "data": data, "tree": tree, "seed": 3})
    expected = features_of_labels(config, ShardedDataset(job.data_url, "train"))[initial_order(90, 3)]
    job = make_job(config, ShardedDataset(job.data_url, "train"), job.tree_url)
    assert job.num_name_features == 91  # "label" and the numbers 0 to 89
    assert job.num_parts > 3
    assert (finished_features(job) != expected).nnz == 0


def test_what_another_build_left_is_deleted_and_what_the_same_left_is_kept(job):
    progress = BuildJournal(job.tree_url)
    assert not progress.begin("one")
    progress.save_branch(0, 3, np.array([2, 0, 1], np.int32))
    assert progress.begin("one")
    assert progress.read_branches()[0, 3].tolist() == [2, 0, 1]
    assert not progress.begin("another")
    assert progress.read_branches() == {}
