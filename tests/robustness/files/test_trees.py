"""Trees with false contents and matching checksums, or with a changed manifest, are refused.

Oracle: a real tree with one change at a time.
"""

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
from support.mutations import make_checksums_fit

from cxml.errors import DataError
from cxml.tree import LabelTree


@pytest.fixture
def folder(folders, tmp_path):
    """A copy of the tree."""
    return shutil.copytree(folders["tree"], tmp_path / "tree")


def change_manifest(folder, change):
    values = json.loads((folder / "manifest.json").read_text())
    change(values)
    (folder / "manifest.json").write_text(json.dumps(values))


def write_arrays(folder, arrays, **options):
    """Put arrays in the place of the tree's, with a manifest that fits them."""
    names = ["label_order", *(f"offsets_{level}" for level in range(len(arrays) - 1))]
    schema = pa.schema([("array", pa.string()), ("values", pa.large_list(pa.int64()))])
    with pa.ipc.new_file(folder / "tree.arrow", schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(pa.table([pa.array(names), pa.array(arrays, schema.field("values").type)], schema))
    make_checksums_fit(folder)


@pytest.mark.parametrize("name", ["/etc/passwd", "../tree.arrow", "a/../../tree.arrow", "other.arrow", ""])
@pytest.mark.parametrize("is_added", [False, True], ids=["in place of the tree's file", "beside it"])
def test_a_tree_whose_manifest_names_another_file_is_refused(folder, name, is_added):
    def rename(values):
        files = values["files"]
        files[name] = dict(files["tree.arrow"])
        if not is_added:
            del files["tree.arrow"]

    change_manifest(folder, rename)
    make_checksums_fit(folder)
    with pytest.raises(DataError, match=r"manifest\.json: (file name .* is not a plain path|must list only the file)"):
        LabelTree.load(str(folder))


@pytest.mark.parametrize("field", ["fingerprint", "level_sizes"])
def test_a_changed_field_of_a_trees_manifest_is_noticed(folder, field):
    change_manifest(folder, lambda values: values.update({field: 3}))
    with pytest.raises(DataError, match=r"manifest\.json: is damaged: its checksum"):
        LabelTree.load(str(folder))


@pytest.mark.parametrize("more", ['"version": 1', '"x": NaN', f'"x": 1{"0" * 5000}', f'"x": {"[" * 900}{"]" * 900}'])
def test_a_manifest_that_is_no_plain_json_object_is_refused(folder, more):
    """Its checksum is left out, as those of earlier releases have none."""
    change_manifest(folder, lambda values: values.pop("checksum", None))
    file = folder / "manifest.json"
    file.write_text(f"{file.read_text().rstrip().removesuffix('}')}, {more}}}")
    with pytest.raises(DataError, match=r"manifest\.json: is (not valid JSON|nested too deeply)"):
        LabelTree.load(str(folder))


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_a_compressed_tree_is_refused_before_it_is_expanded(folder, compression):
    tree = LabelTree.load(str(folder))
    write_arrays(folder, [tree.label_order, *tree.offsets], compression=compression)
    with pytest.raises(DataError, match=r"tree\.arrow: is broken \(a record batch is compressed\)"):
        LabelTree.load(str(folder))


@pytest.mark.parametrize("place", ["label_order", "offsets"])
def test_a_tree_with_a_missing_number_is_refused(folder, place):
    tree = LabelTree.load(str(folder))
    arrays = [array.tolist() for array in (tree.label_order, *tree.offsets)]
    arrays[0 if place == "label_order" else -1][1] = None
    write_arrays(folder, arrays)
    with pytest.raises(DataError, match=r"tree\.arrow: is broken \(it contains nulls\)"):
        LabelTree.load(str(folder))


def test_a_tree_of_an_earlier_release_without_a_checksum_in_its_manifest_loads(folder, folders):
    change_manifest(folder, lambda values: values.pop("checksum", None))
    np.testing.assert_array_equal(
        LabelTree.load(str(folder)).label_order, LabelTree.load(str(folders["tree"])).label_order
    )
