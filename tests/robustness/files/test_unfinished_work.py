"""What an interrupted preparation or tree build left is used as it was written, or refused by file name.

Oracle: the values that were written, and the work before it was damaged.
"""

import hashlib
import json
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy import sparse

from cxml import artefacts
from cxml.data import Ragged
from cxml.data.terms import TermRows, Vocabulary
from cxml.data.writer import write_labels
from cxml.errors import CxmlError, DataError
from cxml.preparation.journal import PreparationJournal, ScanResult
from cxml.preparation.staging import (
    StagedBlock,
    read_label_counts,
    read_staged,
    read_term_counts,
    write_staged,
)
from cxml.tree.distributed import BuildJournal
from cxml.tree.distributed.build import _apply_finished

NUM_LABELS, NUM_FEATURES = 3, 5


def rows(*lists):
    return Ragged.from_lists([list(each) for each in lists], np.int32)


def begin_preparation(folder: Path) -> None:
    journal = PreparationJournal(str(folder))
    journal.begin("f")
    for split in ("train", "test"):
        terms = TermRows(["a", "b"], rows([0, 1], [1]), np.array([1, 2, 1], np.int32))
        block = StagedBlock(rows([5, 6], [7]), rows([0, 2], [1]), terms, ["a b", "b"])
        write_staged(journal.stem(split, 0), block)
        journal.record_staged(split, 0, 2)
    labels = write_labels(str(folder), ["x", "y", "z"], np.array([1, 1, 1]))
    journal.save_scan(
        ScanResult({"train": 2, "test": 2}, {"train": {}, "test": {}}, labels, Vocabulary(["a"], np.ones(1)))
    )


def read_preparation(folder: Path) -> list[object]:
    journal = PreparationJournal(str(folder))
    scan = journal.load_scan() if journal.begin("f") else None
    if scan is None:
        return []
    found: list[object] = [scan.rows, scan.skipped, scan.labels, scan.vocabulary.terms, scan.vocabulary.idf.tolist()]
    for split in ("train", "test"):
        found.append(journal.finished(split))
        for number in journal.staged(split):
            stem = journal.stem(split, number)
            block = read_staged(stem, NUM_LABELS)
            lists = (block.input_ids, block.labels, block.terms.codes)
            found += [part.tolist() for each in lists for part in (each.values, each.offsets)]
            found += [block.terms.terms, block.terms.counts.tolist(), block.texts, read_term_counts(stem).to_pylist()]
            found += [part.tolist() for part in read_label_counts(stem, NUM_LABELS)]
    return found


def begin_tree(folder: Path) -> None:
    progress = BuildJournal(str(folder))
    progress.begin("f")
    progress.save_split(0, 4, np.array([3, 1, 0, 2], np.int32))
    progress.save_branch(0, 2, np.array([1, 3], np.int32))
    progress.save_part("pifa", 0, sparse.csr_matrix(np.eye(3, NUM_FEATURES, dtype=np.float32)))


def read_tree(folder: Path) -> list[object]:
    progress = BuildJournal(str(folder))
    if not progress.begin("f"):
        return []
    order = np.arange(4, dtype=np.int32)
    left = _apply_finished(np.array([[0, 2, 4], [0, 1, 2], [2, 3, 4]]), progress, order)
    parts = [progress.read_part("pifa", part, NUM_FEATURES).toarray().tolist()
             for part in sorted(progress.finished_parts("pifa"))]  # fmt: skip
    return [order.tolist(), left.tolist(), parts]


USES = {"preparation": (begin_preparation, read_preparation), "tree": (begin_tree, read_tree)}


@pytest.fixture(params=USES)
def unfinished(request, tmp_path):
    """A folder with unfinished work, and what reads it."""
    begin, read = USES[request.param]
    begin(tmp_path / "work")
    return tmp_path / "work", read


def test_an_unfinished_preparation_is_read_as_it_was_written(tmp_path):
    begin_preparation(tmp_path)
    counts, skipped, labels, terms, idf, *splits = read_preparation(tmp_path)
    assert (counts, skipped) == ({"train": 2, "test": 2}, {"train": {}, "test": {}})
    assert (labels.file, labels.rows) == ("labels.arrow", NUM_LABELS)
    assert (terms, idf) == (["a"], [1])
    block = [[5, 6, 7], [0, 2, 3], [0, 2, 1], [0, 2, 3], [0, 1, 1], [0, 2, 3], ["a", "b"], [1, 2, 1], ["a b", "b"]]
    term_counts = [{"term": "a", "count": 1, "documents": 1}, {"term": "b", "count": 3, "documents": 2}]
    label_counts = [[0, 1, 2], [1, 1, 1]]
    assert splits == 2 * [{}, *block, term_counts, *label_counts]


def test_an_unfinished_tree_is_read_as_it_was_written(tmp_path):
    begin_tree(tmp_path)
    order, left, parts = read_tree(tmp_path)
    assert order == [1, 3, 0, 2]  # the branch sorts the left half of the split again
    assert left == [[2, 3, 4]]
    assert parts == [np.eye(3, NUM_FEATURES).tolist()]


def result_or_refusal(read, folder):
    try:
        return read(folder)
    except CxmlError as error:
        return error


def damages(draw: random.Random, content: bytes) -> bytes:
    kind = draw.choice(["nothing", "cut", "bit", "zeros", "list", "object", "deep", "digits", "text"])
    place = draw.randrange(8 * len(content))
    flipped = bytearray(content)
    flipped[place // 8] ^= 1 << place % 8
    return {
        "nothing": b"", "cut": content[: place // 8], "bit": bytes(flipped), "zeros": bytes(len(content)),
        "list": b"[]", "object": b"{}", "deep": b"[" * 100_000, "digits": b'{"number": ' + b"9" * 5000 + b"}",
        "text": b"\xff\xfetext",
    }[kind]  # fmt: skip


def test_damaged_work_is_refused_or_left_out_and_never_changes_what_is_read(unfinished, tmp_path):
    folder, read = unfinished
    expected = read(folder)
    shutil.copytree(folder, tmp_path / "sound")
    files = sorted(file.relative_to(folder) for file in (folder / ".progress").rglob("*") if file.is_file())
    draw = random.Random("damage")
    num_refused = 0
    for number in range(80):
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "sound", folder)
        file = folder / files[number % len(files)]
        file.write_bytes(damages(draw, file.read_bytes()))
        found = result_or_refusal(read, folder)
        if isinstance(found, CxmlError):
            assert ".progress" in str(found)
            num_refused += 1
        else:  # the note about what is built was made that of another build: all begins anew
            assert found in (expected, []), file
    assert num_refused > 50


@pytest.mark.parametrize("kind", ["pipe", "zeros"])
def test_special_files_in_unfinished_work_are_refused(unfinished, kind):
    folder, read = unfinished
    for file in sorted((folder / ".progress").rglob("*.*")):
        kept = file.read_bytes()
        file.unlink()
        os.mkfifo(file) if kind == "pipe" else file.symlink_to("/dev/zero")
        with pytest.raises(CxmlError):
            read(folder)
        file.unlink()
        file.write_bytes(kept)


def seal(content: bytes) -> bytes:
    return content + hashlib.sha256(content).digest()


def table(**columns) -> bytes:
    sink = pa.BufferOutputStream()
    arrays = {name: pa.array(values, pa.large_list(kind)) for name, (values, kind) in columns.items()}
    with pa.ipc.new_file(sink, pa.table(arrays).schema) as writer:
        writer.write_table(pa.table(arrays))
    return seal(sink.getvalue().to_pybytes())


def part(indices, values):
    return table(indices=(indices, pa.int32()), values=(values, pa.float32()))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("pifa/part-00000.arrow", part([[5]], [[1.0]])),
        ("pifa/part-00000.arrow", part([[-1]], [[1.0]])),
        ("pifa/part-00000.arrow", part([[1, 2]], [[1.0]])),
        ("pifa/part-00000.arrow", part([[1], []], [[], [1.0]])),
        ("pifa/part-00000.arrow", part([[1]], [[float("nan")]])),
        ("pifa/part-00000.arrow", part([None], [[1.0]])),
        ("pifa/part-00000.arrow", table(indices=([["a"]], pa.string()), values=([[1.0]], pa.float32()))),
        ("splits/0-4.labels", seal(np.array([3, 1, 0], "<i4").tobytes())),
        ("splits/0-4.labels", seal(np.array([3, 1, 0, 9], "<i4").tobytes())),
        ("splits/0-4.labels", seal(np.array([3, 1, 1, 2], "<i4").tobytes())),
        ("branches/0-2.labels", seal(np.array([0, 2], "<i4").tobytes())),
    ],
)
def test_a_tree_is_not_built_on_parts_that_lie_with_fitting_checksums(tmp_path, name, content):
    begin_tree(tmp_path)
    (tmp_path / ".progress" / name).write_bytes(content)
    with pytest.raises(DataError, match=r"(?s)\.progress.*Delete the folder"):
        read_tree(tmp_path)


SCAN_LIES = [
    {"rows": {"train": 10**9, "test": 2}}, {"rows": {"train": -1, "test": 2}}, {"rows": {"train": "2", "test": 2}},
    {"rows": {}}, {"skipped": []}, {"labels": {}}, {"more": 1},
    {"labels": {"file": "../labels.arrow", "rows": 3, "bytes": 9, "sha256": "0" * 64}},
    {"labels": {"file": "labels.arrow", "rows": 3, "bytes": 9, "sha256": "0" * 64}},
]  # fmt: skip


@pytest.mark.parametrize("lie", SCAN_LIES)
def test_a_scan_that_lies_is_refused_before_anything_is_made_from_it(tmp_path, lie):
    begin_preparation(tmp_path)
    file = tmp_path / ".progress/scan.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **lie}))
    with pytest.raises(DataError):
        PreparationJournal(str(tmp_path)).load_scan()


@pytest.mark.parametrize("lie", [{"number": 1}, {"number": -1}, {"rows": 0}, {"rows": None}, {"file": "x"}])
def test_a_note_about_a_block_that_lies_is_refused(tmp_path, lie):
    begin_preparation(tmp_path)
    file = tmp_path / ".progress/train/block-00000.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **lie}))
    with pytest.raises(DataError, match=r"block-00000\.json"):
        PreparationJournal(str(tmp_path)).staged("train")


@pytest.mark.parametrize("name", ["../x", "train/shard-00009.arrow", "/etc/passwd", 5])
def test_a_note_about_a_shard_elsewhere_is_refused(tmp_path, name):
    journal = PreparationJournal(str(tmp_path))
    journal.begin("f")
    note = tmp_path / ".progress/train/shard-00000.arrow.json"
    note.parent.mkdir()
    note.write_text(json.dumps({"file": name, "rows": 2, "bytes": 5, "sha256": "0" * 64}))
    with pytest.raises(DataError, match=r"shard-00000\.arrow\.json"):
        journal.finished("train")


def test_labels_and_terms_outside_of_their_range_are_refused(tmp_path):
    stem = str(tmp_path / "block-00000")
    for labels, codes in ((9, 0), (-1, 0), (0, 9), (0, -1)):
        terms = TermRows(["a"], rows([0]), np.ones(1, np.int32))
        write_staged(stem, StagedBlock(rows([5]), rows([labels]), terms, None))
        # The counts of terms are sound, the codes in the rows are not.
        whole = artefacts.read_sealed_table(f"{stem}.rows.arrow", (_schema(),), "")
        lying = whole.set_column(2, whole.schema.field(2), pa.array([[codes]], pa.large_list(pa.int32())))
        artefacts.write_sealed_table(f"{stem}.rows.arrow", lying)
        with pytest.raises(DataError, match=r"rows\.arrow: contains (labels|terms) outside"):
            read_staged(stem, NUM_LABELS)


def _schema():
    names = ("input_ids", "labels", "term_codes", "term_counts")
    return pa.schema([(name, pa.large_list(pa.int32())) for name in names])
