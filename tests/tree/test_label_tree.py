"""The label tree: its arrays agree, it saves and loads unchanged, and damaged files are refused.

Oracles: a hand-written tree, and clusters drawn by hypothesis.
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxml.errors import DataError, StaleArtefactError
from cxml.tree import LabelTree

ORDER = np.array([3, 0, 4, 1, 2, 5], np.int32)
OFFSETS = (np.array([0, 2, 3]), np.array([0, 2, 4, 6]))


def small_tree() -> LabelTree:
    return LabelTree(label_order=ORDER, offsets=OFFSETS)


def test_levels_children_parents_and_label_runs_agree():
    tree = small_tree()
    assert tree.level_sizes == (2, 3, 6)
    assert tree.children(0, 0) == range(2)
    assert tree.children(1, 2) == range(4, 6)
    assert tree.parents(1).tolist() == [0, 0, 1]
    assert tree.parents(2).tolist() == [0, 0, 1, 1, 2, 2]
    assert tree.label_offsets(0).tolist() == [0, 4, 6]
    assert tree.label_offsets(1).tolist() == [0, 2, 4, 6]
    assert tree.label_positions()[ORDER].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("offsets", [OFFSETS, ()])
def test_a_saved_tree_loads_as_it_was(tmp_path, offsets):
    tree = LabelTree(label_order=ORDER, offsets=offsets)
    tree.save(str(tmp_path), {"fingerprint": "abc"})
    loaded = LabelTree.load(str(tmp_path), fingerprint="abc")
    assert loaded.label_order.dtype == np.int32
    assert np.array_equal(loaded.label_order, ORDER)
    assert [bounds.tolist() for bounds in loaded.offsets] == [bounds.tolist() for bounds in offsets]


def test_a_tree_works_on_any_fsspec_store():
    small_tree().save("memory://trees/one", {})
    assert LabelTree.load("memory://trees/one").level_sizes == (2, 3, 6)


def test_a_tree_of_another_fingerprint_is_stale(tmp_path):
    small_tree().save(str(tmp_path), {"fingerprint": "abc"})
    with pytest.raises(StaleArtefactError, match=r"abc.*xyz.*--force tree"):
        LabelTree.load(str(tmp_path), fingerprint="xyz")


def test_without_a_manifest_there_is_no_tree(tmp_path):
    small_tree().save(str(tmp_path), {})
    (tmp_path / "manifest.json").unlink()
    with pytest.raises(DataError, match="so the tree in this folder is incomplete"):
        LabelTree.load(str(tmp_path))


def test_any_cut_or_changed_byte_of_the_arrays_is_noticed(tmp_path):
    small_tree().save(str(tmp_path), {})
    file = tmp_path / "tree.arrow"
    content = file.read_bytes()
    for broken in (content[:-1], content[: len(content) // 2], b"", content[:40] + b"!" + content[41:]):
        file.write_bytes(broken)
        with pytest.raises(DataError, match=r"tree\.arrow: (its checksum|has \d+ bytes)"):
            LabelTree.load(str(tmp_path))
    file.unlink()
    with pytest.raises(DataError, match="missing"):
        LabelTree.load(str(tmp_path))


def forge(folder: Path, content: bytes) -> None:
    """Put other bytes behind a valid manifest, as someone might who means harm."""
    (folder / "tree.arrow").write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    checksum = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest["files"] = {"tree.arrow": checksum}
    manifest.pop("checksum", None)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def arrow_file(arrays: list[list[int]]) -> bytes:
    names = pa.array([str(i) for i in range(len(arrays))], pa.string())
    table = pa.table({"array": names, "values": pa.array(arrays, pa.large_list(pa.int64()))})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    "arrays",
    [
        [],
        [[]],
        [[0, 1, 1], [0, 3]],
        [[0, 1, 3], [0, 3]],
        [[0, 1, 2**32 + 2], [0, 3]],
        [[0, 1, -1], [0, 3]],
        [[0, 1, 2], [0, 2]],
        [[0, 1, 2], [1, 3]],
        [[0, 1, 2], [0, 4]],
        [[0, 1, 2], [0, 2, 2, 3]],
        [[0, 1, 2], [0, 2, 1, 3]],
        [[0, 1, 2], [0]],
        [[0, 1, 2], [0, 1, 3], [0, 3]],
    ],
)
def test_arrays_that_are_no_tree_are_refused_even_behind_a_valid_checksum(tmp_path, arrays):
    small_tree().save(str(tmp_path), {})
    forge(tmp_path, arrow_file(arrays))
    with pytest.raises(DataError, match=r"tree\.arrow"):
        LabelTree.load(str(tmp_path))


def test_files_of_another_kind_are_refused(tmp_path):
    small_tree().save(str(tmp_path), {})
    forge(tmp_path, b"ARROW1 but no more")
    with pytest.raises(DataError, match="Arrow"):
        LabelTree.load(str(tmp_path))
    forge(tmp_path, arrow_file([[0, 1, 2], [0, 3]]))
    with pytest.raises(DataError, match="manifest"):
        LabelTree.load(str(tmp_path))
    (tmp_path / "manifest.json").write_text('{"format": "another", "version": 1}')
    with pytest.raises(DataError, match="format is 'another'"):
        LabelTree.load(str(tmp_path))


@given(st.integers(0, 10_000), st.integers(1, 40), st.lists(st.integers(1, 6), max_size=3))
def test_a_tree_of_clusters_has_those_clusters(seed, num_labels, branching):
    rng = np.random.default_rng(seed)
    levels, above = [], np.zeros(num_labels, np.int64)
    for children in branching:
        above = np.unique(above * 10 + rng.integers(0, children, num_labels), return_inverse=True)[1]
        levels.append(above)
    shuffled = [rng.permutation(level.max() + 1)[level] for level in levels]  # numbers say nothing about the parents
    tree = LabelTree.from_clusters(shuffled, num_labels)
    assert tree.level_sizes == (*(level.max() + 1 for level in levels), num_labels)
    for level, of_label in enumerate(shuffled):
        found = tree.cluster_of_label(level)
        assert len(np.unique(np.stack([found, of_label]), axis=1).T) == of_label.max() + 1


def test_clusters_that_do_not_lie_inside_each_other_are_refused():
    with pytest.raises(ValueError, match="cluster of level 1 belongs to two clusters"):
        LabelTree.from_clusters([np.array([0, 0, 1, 1]), np.array([0, 1, 1, 2])], 4)
