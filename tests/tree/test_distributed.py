"""The tree built by real Ray workers is bit for bit that of one process, also after kills and restarts.

Oracle: the tree that one process builds.
"""

import contextlib
import signal
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from scipy import sparse
from support.datasets import random_rows, write_dataset
from support.ray import own_ray

from cxml.config import config_from_dict
from cxml.data import ShardedDataset
from cxml.errors import DataError
from cxml.tree import build, plan_splits, tree_url
from cxml.tree.distributed import build as driver


@pytest.fixture(scope="module", autouse=True)
def ray_cluster():
    """A Ray of this test's own, of two CPUs."""
    with own_ray():
        yield


def config_for(data, out, engine="ray", num_workers=2, **tree):
    sections = {"level_sizes": [8, 64, 700], "engine": engine, "num_workers": num_workers, "feature_top_k": 50, **tree}
    source = {"kind": "icd10cm"}
    return config_from_dict(
        {"auto": [], "output": str(out), "data": {"source": source, "directory": data}, "tree": sections, "seed": 5}
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """20,000 labels of about 50 features: about a million entries, so the top of the tree takes all workers."""
    rng = np.random.default_rng(0)
    labels, features = random_rows(rng, 20_000, 20_000, 3), random_rows(rng, 20_000, 9_000, 24)
    labels.data[:] = 1
    return write_dataset(tmp_path_factory.mktemp("data") / "set", {"train": (labels, features)})


@pytest.fixture(scope="module")
def expected(data, tmp_path_factory):
    """What one process builds."""
    return build(config_for(data, tmp_path_factory.mktemp("local"), "local"), ShardedDataset(data, "train"))


@pytest.fixture(scope="module")
def build_order(data):
    """The order that Ray workers give the labels; what they finished stays beside the tree."""

    def order(out, **tree):
        config = config_for(data, out, **tree)
        dataset = ShardedDataset(data, "train")
        plan = plan_splits(dataset.manifest.num_labels, config.tree.level_sizes)
        return driver.order_labels(config, dataset, plan, tree_url(config), "fingerprint")

    return order


@pytest.fixture(scope="module")
def by_four(build_order, tmp_path_factory):
    """What four workers leave, and the order."""
    out = tmp_path_factory.mktemp("four")
    return out, build_order(out, num_workers=4)


def stamps(out, *patterns):
    return {p: p.stat().st_mtime_ns for pattern in patterns for p in Path(out).glob(f"tree/.progress/{pattern}")}


def span(file):
    """The positions that a file of labels is about."""
    return tuple(map(int, file.stem.split("-")))


def workers():
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if "ray::RowHolder" in " ".join(process.cmdline()):
                found.append(process)
    return found


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def test_one_worker_and_four_build_what_one_process_builds(build_order, by_four, expected, tmp_path):
    out, order = by_four
    assert np.array_equal(order, expected.label_order)
    assert np.array_equal(build_order(tmp_path, num_workers=1), expected.label_order)
    assert len(stamps(out, "splits/*")) > 1
    assert len(stamps(out, "pifa/*")) > 1


def test_another_number_of_workers_goes_on_where_a_build_was_stopped(build_order, by_four, expected):
    out, _ = by_four
    (start, stop), *others = map(span, stamps(out, "branches/*"))
    outside = [file for file in stamps(out, "splits/*") if not span(file)[0] <= start < stop <= span(file)[1]]
    lost = [file for file in stamps(out, "branches/*") if span(file) in others]
    for file in [*lost, *outside, *list(stamps(out, "pifa/*"))[1:3]]:
        file.unlink()
    kept = stamps(out, "*/*")
    assert np.array_equal(build_order(out, num_workers=1), expected.label_order)
    assert stamps(out, "*/*").items() >= kept.items()


def test_work_below_a_node_whose_own_is_lost_is_done_again(build_order, by_four, expected):
    out, _ = by_four
    max(stamps(out, "splits/*"), key=lambda file: span(file)[1] - span(file)[0]).unlink()
    assert np.array_equal(build_order(out, num_workers=1), expected.label_order)


@pytest.mark.slow  # as all that kills Ray's workers: on its own
def test_killed_workers_cost_their_share_only(build_order, expected, tmp_path, caplog):
    kept = {}

    def kill_workers_after_the_first_part_and_after_the_first_split():
        wait_for(lambda: stamps(tmp_path, "pifa/*.arrow"))
        workers()[0].send_signal(signal.SIGKILL)
        wait_for(lambda: stamps(tmp_path, "splits/*.labels"))
        kept.update(stamps(tmp_path, "pifa/*.arrow", "splits/*.labels"))
        workers()[-1].send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill_workers_after_the_first_part_and_after_the_first_split)
    killer.start()
    order = build_order(tmp_path, num_workers=2)
    killer.join()
    assert caplog.text.count("died and is being replaced") == 2
    assert np.array_equal(order, expected.label_order)
    assert stamps(tmp_path, "*/*").items() >= kept.items()


def test_a_tree_on_ray_is_saved_as_a_local_one_with_nothing_left_beside_it(tmp_path):
    # Fewer labels than a leaf could hold, one without texts, two with the same texts.
    labels = sparse.csr_matrix(np.array([[1, 0, 0, 0, 0], [0, 1, 0, 1, 0], [0, 1, 0, 1, 1], [1, 0, 0, 0, 1]]))
    data = write_dataset(tmp_path / "set", {"train": (labels, sparse.csr_matrix(np.eye(4, 6, dtype=np.float32)))})
    tree = {"level_sizes": [2, 3], "walk_length": 30, "name_features": "tfidf"}
    for engine in ("ray", "local"):
        build(config_for(data, tmp_path / engine, engine, **tree), ShardedDataset(data, "train"))
    files = [{p.name: p.read_bytes() for p in Path(tmp_path, engine, "tree").rglob("*")} for engine in ("ray", "local")]
    assert files[0] == files[1]
    assert set(files[0]) == {"tree.arrow", "manifest.json"}


def test_broken_features_are_refused_in_cxmls_own_words(tmp_path):
    features = sparse.csr_matrix(np.array([[0.5, np.inf]], np.float32))
    data = write_dataset(tmp_path / "set", {"train": (sparse.csr_matrix(np.ones((1, 2))), features)})
    with pytest.raises(DataError, match="tfidf_values are not all finite"):
        build(config_for(data, tmp_path / "run", num_workers=1, level_sizes=[2]), ShardedDataset(data, "train"))
