"""The XMC repository's format: texts, labels and names are read; broken files are refused with file and line.

Oracles: the raw chapter that the files were written from, and matrices written by SciPy with one change at a time.
"""

import io
import zipfile

import numpy as np
import pytest
from scipy import sparse

from cxml.config import SourceConfig
from cxml.errors import DataError
from cxml.formats import read_source, source_facts


def read(folder):
    return read_source(SourceConfig(path=folder))


def facts(folder):
    return source_facts(SourceConfig(path=folder))


def replace_lines(file, change):
    lines = file.read_bytes().split(b"\n")
    change(lines)
    file.write_bytes(b"\n".join(lines))


def replace_matrix(file, change):
    matrix = sparse.load_npz(file)
    arrays = {"data": matrix.data, "indices": matrix.indices, "indptr": matrix.indptr, "shape": np.array(matrix.shape),
              "format": np.array(b"csr")}  # fmt: skip
    change(arrays)
    np.savez(file, **arrays)


def test_files_come_back_as_texts_labels_and_names(xmc_folder, raw_chapter):
    raw = read(str(xmc_folder))
    assert raw.label_names == raw_chapter.label_names
    for split, expected in raw_chapter.splits.items():
        assert raw.splits[split].texts == expected.texts
        assert (raw.splits[split].labels != expected.labels).nnz == 0


def test_without_names_the_ids_are_the_names(xmc_folder):
    (xmc_folder / "Y.txt").unlink()
    names = read(str(xmc_folder)).label_names
    assert names[:3] == ["0", "1", "2"]
    assert "Y.txt" not in facts(str(xmc_folder))["files"]


def test_only_newlines_end_a_text(xmc_folder, raw_chapter):
    odd = "one\u2028two\x0bthree\x85four"
    file = xmc_folder / "train_raw_texts.txt"
    replace_lines(file, lambda lines: lines.__setitem__(1, odd.encode()))
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n").removesuffix(b"\r\n"))
    texts = read(str(xmc_folder)).splits["train"].texts
    assert texts[1] == odd
    assert texts[0] == raw_chapter.splits["train"].texts[0]
    assert len(texts) == len(raw_chapter.splits["train"].texts)


def test_stored_zeros_and_repeated_labels_count_once_or_not_at_all(xmc_folder):
    def change(arrays):
        arrays["indices"] = np.array([5, 2, 2, 7], np.int32)
        arrays["data"] = np.array([1, 1, 1, 0], np.float32)
        arrays["indptr"] = np.array([0, 4], np.int32)
        arrays["shape"] = np.array([1, arrays["shape"][1]])

    replace_matrix(xmc_folder / "Y.trn.npz", change)
    (xmc_folder / "train_raw_texts.txt").write_text("a single text")
    assert read(str(xmc_folder)).splits["train"].labels.indices.tolist() == [2, 5]


@pytest.mark.parametrize("name", ["train_raw_texts.txt", "test_raw_texts.txt", "Y.trn.npz", "Y.tst.npz"])
def test_a_missing_file_is_named_with_the_files_needed(xmc_folder, name):
    (xmc_folder / name).unlink()
    for action in (read, facts):
        with pytest.raises(DataError, match=rf"{name}: is missing( \(nor .*\))?\. Put it into data\.source\.path"):
            action(str(xmc_folder))


@pytest.mark.parametrize(
    ("file", "line", "content", "problem"),
    [
        ("train_raw_texts.txt", 7, b"caf\xe9 au lait", "not valid UTF-8"),
        ("test_raw_texts.txt", 1, b"\xff\xfe", "not UTF-8"),
        ("train_raw_texts.txt", 3, b"", "an empty text"),
        ("test_raw_texts.txt", 2, b" \t ", "an empty text"),
        ("Y.txt", 4, b"", "an empty name"),
    ],
)
def test_a_broken_line_is_refused_with_file_and_line(xmc_folder, file, line, content, problem):
    replace_lines(xmc_folder / file, lambda lines: lines.__setitem__(line - 1, content))
    with pytest.raises(DataError, match=rf"{file}, line {line}: {problem}"):
        read(str(xmc_folder))


def test_an_empty_line_at_the_end_counts_as_a_line(xmc_folder, raw_chapter):
    with (xmc_folder / "train_raw_texts.txt").open("a") as file:
        file.write("\n")
    rows = len(raw_chapter.splits["train"].texts)
    with pytest.raises(DataError, match=rf"has {rows} rows, but train_raw_texts\.txt has {rows + 1} lines"):
        read(str(xmc_folder))


def test_a_row_without_a_label_is_refused_with_its_number_and_text(xmc_folder, raw_chapter):
    def change(arrays):
        row = slice(*arrays["indptr"][4:6])
        arrays["data"][row] = 0

    replace_matrix(xmc_folder / "Y.tst.npz", change)
    with pytest.raises(DataError) as caught:
        read(str(xmc_folder))
    assert caught.value.line == 5
    assert "Y.tst.npz, line 5: this row has no label (the text is" in str(caught.value)
    assert raw_chapter.splits["test"].texts[4][:40] in str(caught.value)


@pytest.mark.parametrize("label", [-1, 10**6])
def test_a_label_out_of_range_is_refused_with_its_row(xmc_folder, label):
    def change(arrays):
        arrays["indices"][arrays["indptr"][9]] = label

    replace_matrix(xmc_folder / "Y.trn.npz", change)
    with pytest.raises(DataError, match=rf"Y\.trn\.npz, line 10: label id out of range: {label} is not in 0\.\.\d+"):
        read(str(xmc_folder))


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays: arrays["indptr"].__setitem__(5, 10**6),
        lambda arrays: arrays["indptr"].__setitem__(0, 3),
        lambda arrays: arrays.update(data=arrays["data"][:-1]),
        lambda arrays: arrays.update(indptr=arrays["indptr"][:-1]),
        lambda arrays: arrays.update(shape=np.array([-1, 5])),
        lambda arrays: arrays.update(format=np.array(b"nonsense")),
        lambda arrays: arrays.pop("indices"),
        lambda arrays: arrays.update(indices=arrays["indices"].astype(object)),
    ],
)
def test_arrays_that_make_no_matrix_are_refused(xmc_folder, change):
    replace_matrix(xmc_folder / "Y.trn.npz", change)
    with pytest.raises(DataError, match=r"Y\.trn\.npz: .*scipy\.sparse\.save_npz"):
        read(str(xmc_folder))


@pytest.mark.parametrize("damage", [
    lambda content: content[:0], lambda content: content[:-30], lambda content: b"\0" * len(content),
    lambda content: content[:200] + bytes(b ^ 0xFF for b in content[200:240]) + content[240:],
])  # fmt: skip
def test_a_damaged_label_file_is_refused(xmc_folder, damage):
    file = xmc_folder / "Y.tst.npz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match=r"Y\.tst\.npz: cannot be read as a SciPy sparse matrix"):
        read(str(xmc_folder))


def test_pickled_arrays_are_never_loaded(xmc_folder):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    array = np.empty(1, object)
    array[0] = Bomb()
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=True)
    with zipfile.ZipFile(xmc_folder / "Y.trn.npz", "w") as archive:
        archive.writestr("format.npy", stream.getvalue())
    with pytest.raises(DataError, match=r"Y\.trn\.npz: cannot be read as a SciPy sparse matrix"):
        read(str(xmc_folder))


@pytest.mark.parametrize("make", [sparse.csr_array, sparse.csc_matrix, sparse.csc_array, sparse.coo_matrix,
                                  sparse.coo_array])  # fmt: skip
def test_other_kinds_of_sparse_matrix_read_alike(xmc_folder, raw_chapter, make):
    expected = raw_chapter.splits["train"].labels
    sparse.save_npz(xmc_folder / "Y.trn.npz", make(expected))
    assert (read(str(xmc_folder)).splits["train"].labels != expected).nnz == 0


@pytest.mark.parametrize("make", [sparse.bsr_matrix, sparse.dia_matrix])
def test_matrices_without_rows_are_refused(xmc_folder, make):
    sparse.save_npz(xmc_folder / "Y.trn.npz", make(np.eye(4)))
    with pytest.raises(DataError, match=r"contains a (bsr|dia) matrix, expected CSR, CSC or COO"):
        read(str(xmc_folder))


def test_files_that_disagree_in_length_are_refused(xmc_folder, raw_chapter):
    labels = raw_chapter.splits["test"].labels
    sparse.save_npz(xmc_folder / "Y.tst.npz", labels[:-1])
    lines = len(raw_chapter.splits["test"].texts)
    with pytest.raises(
        DataError, match=rf"Y\.tst\.npz: has {lines - 1} rows, but test_raw_texts\.txt has {lines} lines"
    ):
        read(str(xmc_folder))
    sparse.save_npz(xmc_folder / "Y.tst.npz", sparse.csr_matrix((labels.data, labels.indices, labels.indptr),
                                                               (labels.shape[0], labels.shape[1] + 1)))  # fmt: skip
    with pytest.raises(DataError, match=r"Y\.tst\.npz: has \d+ label columns, Y\.trn\.npz has \d+"):
        read(str(xmc_folder))


def test_too_few_names_are_refused(xmc_folder):
    replace_lines(xmc_folder / "Y.txt", lambda lines: lines.pop(0))
    with pytest.raises(DataError, match=r"Y\.txt: has \d+ lines, but the label files have \d+ columns"):
        read(str(xmc_folder))


def test_facts_change_with_any_byte_of_any_file(xmc_folder):
    before = facts(str(xmc_folder))
    assert set(before["files"]) == {"train_raw_texts.txt", "test_raw_texts.txt", "Y.trn.npz", "Y.tst.npz", "Y.txt"}
    for name in before["files"]:
        content = (xmc_folder / name).read_bytes()
        (xmc_folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert facts(str(xmc_folder)) != before
        (xmc_folder / name).write_bytes(content)
    assert facts(str(xmc_folder)) == before


def test_wordnet_reads_as_its_authors_describe_it(wordnet_folder):
    raw = read(str(wordnet_folder))
    assert [len(split.texts) for split in raw.splits.values()] == [76_194, 19_049]
    assert len(raw.label_names) == 13_728
    assert max(np.diff(split.labels.indptr).max() for split in raw.splits.values()) == 15
