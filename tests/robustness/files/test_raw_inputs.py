"""Raw files that lie or blow up are refused by name, or read in bounded memory and time.

Each file is read in a process with a limit on memory and time. Oracle: for each file, the message or the contents that
it must give.
"""

import bz2
import gzip
import io
import json
import os
import pickle
import re
import struct
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import sparse
from support.bounded import outcomes

LABELS = sparse.csr_matrix(np.array([[1, 0, 1], [0, 1, 0]], np.float32))
READ = r'ok: \[2, \["a text", "another"\], \[\[0, 2\], \[1\]\], \["0", "1", "2"\]\]'
CASES = {}


def case(match, *variants):
    """Declare a case: the decorated function writes its files into a folder and returns an action and its arguments."""

    def declare(build):
        for variant in variants or [None]:
            name = build.__name__ + (f"[{variant}]" if variant is not None else "")
            CASES[name] = (build if variant is None else lambda folder, v=variant: build(folder, v), match)
        return build

    return declare


def write_xmc(folder, content=None, name="Y.trn.npz", texts="a text\nanother\n"):
    """A source in the XMC repository's form, with another file of train labels."""
    for split in ("train", "test"):
        (folder / f"{split}_raw_texts.txt").write_text(texts)
    sparse.save_npz(folder / "Y.tst.npz", LABELS)
    if content is None:
        sparse.save_npz(folder / name, LABELS)
    else:
        (folder / name).write_bytes(content)
    return "source", {"path": str(folder)}


def arrays_of(matrix):
    return {"format": np.array(b"csr"), "shape": np.array(matrix.shape), "data": matrix.data,
            "indices": matrix.indices, "indptr": matrix.indptr}  # fmt: skip


def npz(changes, drop=()):
    arrays = {name: array for name, array in (arrays_of(LABELS) | changes).items() if name not in drop}
    sink = io.BytesIO()
    np.savez_compressed(sink, **arrays)
    return sink.getvalue()


def zipped(members, method=zipfile.ZIP_DEFLATED):
    """An archive of `.npy` files given as bytes."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return sink.getvalue()


def npy(array, shape=None, dtype=None, num_bytes=None):
    """A `.npy` file, perhaps with a header that lies."""
    sink = io.BytesIO()
    header = {
        "descr": dtype or array.dtype.str,
        "fortran_order": False,
        "shape": array.shape if shape is None else shape,
    }
    np.lib.format.write_array_header_1_0(sink, header)
    return sink.getvalue() + (array.tobytes() if num_bytes is None else bytes(num_bytes))


def members(**changes):
    return {name: npy(array) for name, array in arrays_of(LABELS).items()} | changes


HONEST = {
    "csr_array": sparse.csr_array, "csc": sparse.csc_matrix, "csc_array": sparse.csc_array, "coo": sparse.coo_matrix,
    "coo_array": sparse.coo_array, "csr": sparse.csr_matrix,
}  # fmt: skip


@case(READ, *HONEST)
def matrices_that_scipy_writes(folder, kind):
    sink = io.BytesIO()
    sparse.save_npz(sink, HONEST[kind](LABELS))
    return write_xmc(folder, sink.getvalue())


@case(READ, "<i8", ">i4", "u2")
def integers_of_any_size_and_order(folder, dtype):
    return write_xmc(folder, npz({name: arrays_of(LABELS)[name].astype(dtype) for name in ("indices", "indptr")}))


ODD_ARRAYS = {
    "fractions": {"indices": np.array([0, 0.5, 1])}, "whole floats": {"indices": np.array([0.0, 2.0, 1.0])},
    "NaN ids": {"indices": np.array([0, np.nan, 1])}, "a negative shape": {"shape": np.array([-1, 3])},
    "a shape of three": {"shape": np.array([2, 3, 1])}, "falling offsets": {"indptr": np.array([0, 3, 2])},
    "offsets too far": {"indptr": np.array([0, 1, 10**9])}, "offsets from 1": {"indptr": np.array([1, 2, 3])},
    "two dimensions": {"indices": np.array([[0, 2, 1]])}, "Fortran order": {"data": np.ones((2, 2), order="F")},
    "more rows": {"shape": np.array([10**12, 3])}, "texts for ids": {"indices": np.array(["0", "2", "1"])},
    "complex values": {"data": np.array([1, 1j, 1])}, "another format": {"format": np.array(b"bsr")},
    "a long format": {"format": np.array(b"x" * 10**6)}, "fewer values": {"data": np.ones(2)},
    "dates": {"data": np.array(["2020"] * 3, "M8[s]")}, "a record": {"data": np.zeros(3, "i4,i4")},
}  # fmt: skip


@case(r"refused: .*Y\.trn\.npz: cannot be read as a SciPy sparse matrix", *ODD_ARRAYS)
def arrays_that_make_no_matrix(folder, name):
    return write_xmc(folder, npz(ODD_ARRAYS[name]))


@case(r"refused: .*Y\.trn\.npz, line \d: label id out of range", -1, 3, 2**31 - 1, -(2**31), 2**62)
def labels_outside_the_matrix(folder, label):
    return write_xmc(folder, npz({"indices": np.array([0, label, 1])}))


@case(r"refused: .*Y\.trn\.npz, line 2: a label's value is NaN or infinite", "nan", "inf", "-inf")
def values_that_are_no_numbers(folder, value):
    return write_xmc(folder, npz({"data": np.array([1, 1, float(value)])}))


OBJECTS = io.BytesIO()
np.lib.format.write_array(OBJECTS, np.array([0, {}, 1], object), allow_pickle=True)
HUGE = 10**11
ARCHIVES = {
    "10^11 items": lambda: zipped(members(indices=npy(np.zeros(1, "i4"), shape=(HUGE,)))),
    "10^11 items, stored": lambda: zipped(members(data=npy(np.zeros(1), shape=(HUGE,))), zipfile.ZIP_STORED),
    "a huge item": lambda: zipped(members(data=npy(np.zeros(1), dtype="|V2000000000", shape=(3,)))),
    "a negative size": lambda: zipped(members(indices=npy(np.zeros(3, "i4"), shape=(-3,)))),
    "an empty shape": lambda: zipped(members(indices=npy(np.zeros(1, "i4"), shape=()))),
    "half a gigabyte of zeros": lambda: zipped(members(indices=zeros(1 << 27))),
    "objects": lambda: zipped(members(indices=OBJECTS.getvalue())),
    "no arrays": lambda: zipped({}), "no indices": lambda: npz({}, drop=["indices"]),
    "a member twice": lambda: twice(zipped(members())),
    "a header of a megabyte": lambda: zipped(members(indices=long_header())),
    "deep brackets": lambda: zipped(members(indices=header("(" * 900))),
    "code": lambda: zipped(members(indices=header("__import__('os').abort()"))),
    "cut off": lambda: zipped(members())[:-40], "half": lambda: zipped(members())[:300], "empty": lambda: b"",
    "corrupt zlib": lambda: corrupted(zipped(members(indices=npy(np.arange(4096, dtype="i4"))))),
    "a size that lies": lambda: lying(zipped(members()), 24, 1 << 30),
    "a compressed size that lies": lambda: lying(zipped(members()), 20, 5),
    "LZMA": lambda: zipped(members(), zipfile.ZIP_LZMA), "bzip2": lambda: zipped(members(), zipfile.ZIP_BZIP2),
    "an overlap": lambda: overlapping(48 << 20),
    "no archive": lambda: b"PK" + bytes(1000), "a lone array": lambda: npy(np.zeros(3)),
}  # fmt: skip


def header(text):
    content = text.encode().ljust(1000)
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(content)) + content


def long_header():
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 30) + b" " * (1 << 20)


def twice(content):
    sink = io.BytesIO(content)
    with zipfile.ZipFile(sink, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("indices.npy", npy(np.zeros(3, "i4")))
    return sink.getvalue()


def corrupted(content):
    place = content.index(b"indices.npy") + 1000
    return content[:place] + bytes(255 - byte for byte in content[place : place + 200]) + content[place + 200 :]


def lying(content, field, value):
    """The archive with another size of `indices.npy` in its directory."""
    place = content.index(b"PK\x01\x02", content.rindex(b"indices.npy") - 60) + field
    return content[:place] + struct.pack("<I", value) + content[place + 4 :]


def zeros(count):
    return npy(np.zeros(1, "i4"), shape=(count,), num_bytes=4 * count)


def overlapping(num_bytes):
    """All members share the data of one."""
    content = bytearray(zipped({"indptr": zeros(num_bytes // 4)}))
    start = content.index(b"PK\x01\x02")
    entry = bytes(content[start : content.index(b"PK\x05\x06")])
    names = ["format", "shape", "indices", "data", "indptr"]
    entries = b"".join(entry.replace(b"indptr", name.encode().ljust(6)[:6]) for name in names)
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 5, 5, len(entries), start, 0)
    return bytes(content[:start]) + entries + end


SMALL_ARCHIVES = [name for name in ARCHIVES if name not in ("half a gigabyte of zeros", "an overlap")]


@case(r"refused: .*Y\.trn\.npz: cannot be read as a SciPy sparse matrix", *ARCHIVES)
def archives_that_lie(folder, name):
    return write_xmc(folder, ARCHIVES[name]())


@case(r"refused: .*Y\.trn\.npz\.(gz|bz2): (its first|no SciPy)", ".gz", ".bz2")
def an_archive_of_zeros_in_a_compressed_file(folder, suffix):
    compress, size = {".gz": (gzip.compress, 200), ".bz2": (bz2.compress, 80)}[suffix]
    return write_xmc(folder, compress(bytes(size << 20)), name=f"Y.trn.npz{suffix}")


@case("refused: .*more than a file of this size can contain", "npz", "txt")
def a_label_count_without_labels(folder, form):
    if form == "txt":
        write_xmc(folder, b"2 300000000000\n0:1\n1:1\n", name="Y.trn.txt")
        (folder / "Y.tst.npz").unlink()
        (folder / "Y.tst.txt").write_text("2 300000000000\n0:1\n1:1\n")
        return "source", {"path": str(folder)}
    write_xmc(folder, npz({"shape": np.array([2, 10**12])}))
    (folder / "Y.tst.npz").write_bytes(npz({"shape": np.array([2, 10**12])}))
    return "source", {"path": str(folder)}


HEADERS = ["2 ²", "² 3", "2 " + "9" * 5000, "٢ 3", "2 3 4", "2", "", "-2 3", "2 3.0", "1_0 3", "+2 3", "2 0x3", "a b"]


@case(r"refused: .*Y\.trn\.txt, line 1: its first line does not contain the numbers", *range(len(HEADERS)))
def headers_of_sparse_text(folder, number):
    return write_xmc(folder, f"{HEADERS[number]}\n0:1\n1:1\n".encode(), name="Y.trn.txt")


LINES = ["²:1", "9" * 5000 + ":1", "0:nan", "0:inf", "1_0:1", "+1:1", "0.5:1", ":1", "0:1:1", "x", "0:x", "٣:1",
         "1:1" + " " * 60 + "x", "99999999999999999999:1"]  # fmt: skip


@case(r"refused: .*Y\.trn\.txt, line 3: (not a list of label:value pairs|label id out of range)", *range(len(LINES)))
def lines_of_sparse_text(folder, number):
    return write_xmc(folder, f"2 3\n0:1 2:1\n{LINES[number]}\n".encode(), name="Y.trn.txt")


EMPTY_LINES = gzip.compress(b"\n" * (16 << 20), mtime=0) * 100  # 1.6 GiB


@case(r"refused: .*train_raw_texts\.txt\.gz, line 1: millions of empty lines", "refuse", "skip")
def a_gigabyte_of_empty_lines(folder, on_error):
    action, arguments = write_xmc(folder)
    (folder / "train_raw_texts.txt").unlink()
    (folder / "train_raw_texts.txt.gz").write_bytes(EMPTY_LINES)
    return action, arguments | {"on_error": on_error}


def unpack_to(size, form, line):
    """A file that unpacks to `size` MiB of one line, over and over."""
    block = line * ((1 << 20) // len(line))
    if form == "gz":
        return gzip.compress(block * 16) * (size // 16)
    if form == "bz2":
        return bz2.compress(block * 16) * (size // 16)
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        for _ in range(size):
            stream.write(block)
    return sink.getvalue().to_pybytes()


@case(r"refused: .*: (its first \d+ bytes unpack to|a line is longer than 64 MiB|millions)",
      "gz, empty lines", "gz, blanks", "gz, one line", "zst, empty lines", "zst, one line", "zst, short lines",
      "bz2, empty lines", "bz2, one line")  # fmt: skip
def compressed_texts_that_blow_up(folder, variant):
    form, what = variant.split(", ")
    line = {
        "empty lines": b"\n",
        "blanks": b" \n",
        "one line": b"a",
        "short lines": b"a b c d e f g h i j k l m n o p\n",
    }[what]
    (folder / f"texts.txt.{form}").write_bytes(unpack_to(256, form, line))
    return "texts", {"url": str(folder / f"texts.txt.{form}")}


@case(r"ok: \[1600000, ", "gz", "zst", "bz2")
def honest_texts_that_repeat_themselves(folder, form):
    """110 MiB, which some programs pack two hundred times."""
    lines = b"".join(b"%07d the same abstract about the same subject again and again, in short\n" % (i // 8)
                     for i in range(100_000))  # fmt: skip
    compress = {"gz": gzip.compress, "bz2": bz2.compress, "zst": lambda content: pack(content, "zstd")}[form]
    (folder / f"texts.txt.{form}").write_bytes(compress(lines) * 16)
    return "texts", {"url": str(folder / f"texts.txt.{form}")}


def pack(content, codec):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


def parquet(folder, **columns):
    for split in ("train", "test"):
        pq.write_table(pa.table(columns), folder / f"{split}.parquet")
    return "source", {"kind": "parquet", "path": str(folder)}


def repeated(value, count):
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(count, np.int32)), pa.array([value]))


@case(r"refused: .*\.parquet: (unpacks to|declares)", "long texts", "many rows", "long labels", "many labels")
def parquet_files_that_blow_up(folder, what):
    if what == "many rows":
        return parquet(folder, text=repeated("a", 40_000_000), labels=repeated("x", 40_000_000))
    if what == "long texts":
        return parquet(folder, text=repeated("a" * 1_000_000, 20_000), labels=repeated("x", 20_000))
    if what == "long labels":
        return parquet(folder, text=repeated("a", 20_000), labels=repeated("x" * 1_000_000, 20_000))
    values = pa.DictionaryArray.from_arrays(pa.array(np.zeros(20_000_000, np.int32)), pa.array(["x"]))
    lists = pa.ListArray.from_arrays(pa.array(np.arange(0, 20_000_001, 1000, dtype=np.int32)), values)
    return parquet(folder, text=repeated("a", 20_000), labels=lists)


@case(r'ok: \[3, \["b", "b", "a"\], \[\[0\], \[0, 1\], \[1\]\], \["x", "y"\]\]', "plain", "categories")
def honest_parquet_files(folder, kind):
    texts, labels = pa.array(["b", "b", "a"]), pa.array([["x"], ["x", "y"], ["y"]])
    return parquet(folder, text=texts.dictionary_encode() if kind == "categories" else texts, labels=labels)


@case("refused: .*parquet", "cut off", "no file", "no UTF-8")
def damaged_parquet_files(folder, damage):
    text = (
        pa.array([b"caf\xe9", b"x"]).cast(pa.binary()).view(pa.string())
        if damage == "no UTF-8"
        else pa.array(["a", "b"])
    )
    action, arguments = parquet(folder, text=text, labels=pa.array([["x"], ["y"]]))
    file = folder / "train.parquet"
    if damage != "no UTF-8":
        file.write_bytes(file.read_bytes()[:-30] if damage == "cut off" else b"PAR1" * 9)
    return action, arguments


def shared_lists(depth, width):
    """Each list holds the one before `width` times."""
    value = [1] * width
    for _ in range(depth):
        value = [value] * width
    return pickle.dumps(value, 4)


def shared_array():
    array = np.arange(100_000)
    return pickle.dumps([[array] * 100_000], 4)


def unary(opcode, count):
    """A value pushed, and an instruction carried out `count` times on it."""
    return b"\x80\x04]" + opcode * count + b"."


PICKLES = {
    "a place in the memo of 2^26": lambda: b"\x80\x02]r\x00\x00\x00\x04.",
    "a place in the memo of 2^32 - 1": lambda: b"\x80\x02]r\xff\xff\xff\xff.",
    "lists that share lists": lambda: shared_lists(8, 10),
    "lists that share lists, deeper": lambda: shared_lists(60, 2),
    "an array a hundred thousand times": shared_array,
    "a list in itself": lambda: b"\x80\x02]q\x00h\x00a.",
    "empty lists that share lists": lambda: b"\x80\x02](" + b"]q\x00" + b"h\x00" * 9 + b"e.",
    "deep lists": lambda: b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "deep tuples": lambda: unary(b"\x85", 100_000),
    "many copies on the stack": lambda: unary(b"2", 1_000_000),
    "a number of 5,000 digits": lambda: b"I" + b"9" * 5000 + b"\n.",
    "a number of a megabyte": lambda: pickle.dumps([[1 << (8 << 20)]], 4),
    "a string that claims 2^40 bytes": lambda: b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"x.",
    "bytes made of a number": lambda: hostile_array(b"J\x00\x00\x00\x7f"),
    "a shape of 10^18": lambda: pickle.dumps([[np.arange(6)]], 4).replace(b"K\x06\x85", b"J\xff\xff\xff\x7f\x85"),
    "colliding keys": lambda: pickle.dumps({i * (2**61 - 1): 0 for i in range(3_000)}, 4),
    "a set": lambda: pickle.dumps([{1, 2}], 4), "a dict": lambda: pickle.dumps([{1: 2}], 4),
    "fractions": lambda: pickle.dumps([[0.5]], 4), "true": lambda: pickle.dumps([[[True]]], 4),
    "texts": lambda: pickle.dumps([["0"]], 4), "nothing": lambda: b"", "no end": lambda: b"\x80\x04]",
    "too many ends": lambda: b"\x80\x04....", "noise": lambda: bytes(range(256)) * 4, "pops": lambda: b"\x80\x040000.",
    "a call of what is no name": lambda: b"\x80\x04K\x01)R.",
    "an attribute for a function": lambda: b"\x80\x02cnumpy.core.multiarray\nscalar\n}X\x01\x00\x00\x00aK\x01sb.",
    "a negative label": lambda: pickle.dumps([[np.array([-1, 0])]], 4),
    "a label twice": lambda: pickle.dumps([[[0, 1], [1]]], 4),
    "a label left out": lambda: pickle.dumps([[[0], [2]]], 4),
    "2^64 - 1": lambda: pickle.dumps([[[2**64 - 1]]], 4),
    "levels of other sizes": lambda: pickle.dumps([[[0]], [[0], [1]]], 4),
    "no levels": lambda: pickle.dumps([], 4), "no clusters": lambda: pickle.dumps([[]], 4),
}  # fmt: skip


def hostile_array(content):
    """An array whose bytes are something else."""
    return pickle.dumps([[np.arange(6, dtype="i1")]], 4).replace(b"C\x06\x00\x01\x02\x03\x04\x05", content)


@case(r"refused: .*clusters\.pkl: ", *PICKLES)
def pickled_clusters(folder, name):
    (folder / "clusters.pkl").write_bytes(PICKLES[name]())
    return "clusters", {"file": str(folder / "clusters.pkl")}


@case(r"ok: \[\[0, 1, 0, 1\], \[1, 2, 0, 3\]\]", *range(2, 6))
def honest_clusters(folder, protocol):
    arrays = [[np.array([0, 2]), np.array([1, 3])], [[2], [0], [1], [3]]]
    plain = [[list(map(int, cluster)) for cluster in level] for level in arrays]
    (folder / "clusters.pkl").write_bytes(pickle.dumps(plain if protocol == 2 else arrays, protocol))
    return "clusters", {"file": str(folder / "clusters.pkl")}


CHAIN = [[0, 0], [0, 0, 1, 1], [3, 0, 1, 2]]


def write_chain(folder, make=sparse.csc_matrix):
    above = 1
    for number, of_child in enumerate(CHAIN):
        ones = np.ones(len(of_child), np.float32)
        matrix = sparse.coo_matrix((ones, (range(len(of_child)), of_child)), (len(of_child), above))
        sparse.save_npz(folder / f"C{number}.npz", make(matrix))
        above = len(of_child)
    return "chain", {"folder": str(folder)}


@case(r"ok: \[\[1, 0, 0, 1\], \[3, 0, 1, 2\]\]", *HONEST)
def honest_chains(folder, kind):
    action, arguments = write_chain(folder, HONEST[kind])
    (folder / "C0.npz").unlink()  # of the root's children, which the others do without here
    for number in (1, 2):
        (folder / f"C{number}.npz").rename(folder / f"C{number - 1}.npz")
    return action, arguments


@case(r"refused: .*C0\.npz: is missing", "nothing", "others")
def chains_without_a_beginning(folder, what):
    action, arguments = write_chain(folder)
    for file in folder.glob("C*.npz" if what == "nothing" else "C0.npz"):
        file.unlink()
    return action, arguments


def one_level(**changes):
    return npz({"shape": np.array([3, 2]), "indptr": np.array([0, 1, 2, 3]), **changes})


CHAIN_FILES = {
    "corrupt zlib": lambda: corrupted(zipped(members(indices=npy(np.arange(4096, dtype="i4"))))),
    "two parents": lambda: npz({"shape": np.array([2, 3])}), "fractions": lambda: npz(ODD_ARRAYS["fractions"]),
    "10^12 children": lambda: npz({"shape": np.array([10**12, 3])}),
    "10^12 children of coordinates": lambda: coordinates((10**12, 2)), "no parent": lambda: coordinates((4, 2)),
    "a parent of -1": lambda: one_level(indices=np.array([0, 1, -1])),
    "a parent too far": lambda: one_level(indices=np.array([0, 1, 2**31 - 1])),
    "10^11 items": ARCHIVES["10^11 items"], "objects": ARCHIVES["objects"], "text": lambda: b"a text",
}  # fmt: skip


def coordinates(shape):
    sink = io.BytesIO()
    arrays = {"format": np.array(b"coo"), "row": np.arange(3), "col": np.array([0, 1, 1]), "data": np.ones(3)}
    np.savez(sink, shape=np.array(shape), **arrays)
    return sink.getvalue()


@case(r"refused: .*C0\.npz: ", *CHAIN_FILES)
def chains_that_lie(folder, name):
    (folder / "C0.npz").write_bytes(CHAIN_FILES[name]())
    return "chain", {"folder": str(folder)}


@case("refused: .*scores.npz", *ODD_ARRAYS, *SMALL_ARCHIVES)
def scores_that_lie(folder, name):
    (folder / "scores.npz").write_bytes(npz(ODD_ARRAYS[name]) if name in ODD_ARRAYS else ARCHIVES[name]())
    return "scores", {"file": str(folder / "scores.npz"), "rows": 2, "labels": 3}


@case(r"refused: .*scores\.npz: has scores of labels outside 0\.\.2", -1, 3, 2**31 - 1)
def scores_of_labels_that_are_not(folder, label):
    (folder / "scores.npz").write_bytes(npz({"indices": np.array([0, label, 1])}))
    return "scores", {"file": str(folder / "scores.npz"), "rows": 2, "labels": 3}


def score_text(folder, content):
    (folder / "scores.txt").write_text(content, encoding="utf-8")
    return "scores", {"file": str(folder / "scores.txt"), "rows": 2, "labels": 3}


NINES = "9" * 5000
SCORE_TEXTS = [
    f"2 {NINES}\n0:1\n1:1\n", f"2 {NINES[:30]}\n0:1\n1:1\n", f"{NINES[:30]} 3\n0:1\n1:1\n", "٢ ٣\n0:1\n1:1\n",
    f"2 3\n{NINES}:1\n1:1\n", "2 3\n0_1:1\n1:1\n", "2 3\n+1:1\n1:1\n", "2 3\n٢:1\n1:1\n", "2 3\n0:1_0\n1:1\n",
    f"2 3\n0:{NINES}\n1:1\n", "2 3\n0:1\u20281:1\n",
]  # fmt: skip


@case(r"refused: .*scores\.txt", *range(len(SCORE_TEXTS)))
def score_texts_with_numbers_that_are_none(folder, number):
    return score_text(folder, SCORE_TEXTS[number])


@case(r"ok: \[\[0\.5, 0\.0, 1e-05\], \[0\.0, 2\.0, 0\.0\]\]", "\n", "\r\n", "\r")
def honest_score_texts(folder, end):
    return score_text(folder, "2 3\n0:.5 2:1e-5\n1:2\n".replace("\n", end))


PREDICTED = {"format": "cxml-predictions", "version": 1, "parts": 1, "texts": 2, "k": 2}


def write_parts(folder, files, **manifest):
    """An output folder of `cxml.predict` with these part files."""
    (folder / "manifest.json").write_text(json.dumps(PREDICTED | manifest))
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return "scores", {"file": str(folder), "rows": 2, "labels": 3}


def predicted(*rows, first=0):
    """JSON lines of pairs of label and score."""
    lines = [{"row": first + row, "labels": [{"label": label, "score": score} for label, score in pairs]}
             for row, pairs in enumerate(rows)]  # fmt: skip
    return "".join(json.dumps(line) + "\n" for line in lines)


SECOND_ROW = [(1, 0.5)]
BROKEN_ROWS = {
    "a text": [("a", 1)], "a fraction": [(0.5, 1)], "true": [(True, 1)], "-1": [(-1, 1)], "3": [(3, 1)],
    "2^70": [(2**70, 1)], "a label twice": [(1, 1), (1, 0.5)], "NaN": [(0, float("nan"))], "no score": [(0, None)],
    "a text for a score": [(0, "x")], "infinity": [(0, float("inf"))], "10^400": [(0, 10**400)],
}  # fmt: skip


@case(r"refused: .*part-00000\.jsonl, line 1: ", *BROKEN_ROWS)
def predicted_labels_that_are_none(folder, name):
    return write_parts(folder, {"part-00000.jsonl": predicted(BROKEN_ROWS[name], SECOND_ROW)})


BROKEN_LINES = [
    "no JSON",
    "[]",
    "{}",
    '{"labels": "ab"}',
    '{"labels": [0]}',
    "[" * 100_000,
    '{"labels": [' + NINES + "]}",
]


@case(r"refused: .*part-00000\.jsonl, line 1: ", *range(len(BROKEN_LINES)))
def lines_of_predictions_that_are_none(folder, number):
    return write_parts(folder, {"part-00000.jsonl": f"{BROKEN_LINES[number]}\n" + predicted(SECOND_ROW, first=1)})


def parquet_bytes(**columns):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


PARQUET_PARTS = {
    "no Parquet": lambda: b"x", "other columns": lambda: parquet_bytes(x=[1, 2]),
    "a null": lambda: parquet_bytes(labels=[[0], None], scores=[[1.0], [1.0]]),
    "fewer scores": lambda: parquet_bytes(labels=[[0, 2], [1]], scores=[[1.0], [1.0]]),
    "texts": lambda: parquet_bytes(labels=[["a"], ["b"]], scores=[[1.0], [1.0]]),
    "no lists": lambda: parquet_bytes(labels=[0, 1], scores=[1.0, 1.0]),
    "40 million equal labels": lambda: parquet_bytes(
        labels=pa.ListArray.from_arrays(pa.array([0, 20_000_000, 40_000_000]), pa.array(np.zeros(40_000_000, "i1"))),
        scores=[[1.0], [1.0]],
    ),
}  # fmt: skip


@case(r"refused: .*part-00000\.parquet", *PARQUET_PARTS)
def parts_in_parquet_that_lie(folder, name):
    return write_parts(folder, {"part-00000.parquet": PARQUET_PARTS[name]()})


ROWS = predicted([(0, 0.9)], SECOND_ROW)
FOLDERS = {
    "of another kind": ({"part-00000.jsonl": ROWS}, {"format": "cxml-label-tree"}),
    "of a later version": ({"part-00000.jsonl": ROWS}, {"version": 2}),
    "that lacks a part": ({"part-00000.jsonl": ROWS}, {"parts": 2}),
    "with a gap": ({"part-00000.jsonl": predicted([(0, 0.9)]), "part-00002.jsonl": ROWS}, {"parts": 2}),
    "with rows in another order": ({"part-00000.jsonl": "".join(reversed(ROWS.splitlines(keepends=True)))}, {}),
    "with a part of another form": ({"part-00000.txt": ROWS}, {}),
    "with a matrix of other labels": ({"part-00000.npz": npz({"shape": np.array([2, 4])})}, {}),
}  # fmt: skip


@case("refused: ", *FOLDERS)
def a_folder_of_predictions(folder, name):
    files, manifest = FOLDERS[name]
    return write_parts(folder, files, **manifest)


@case(r"ok: \[2, 200000\]")
def a_text_with_very_many_predictions_beside_others(folder):
    rows = [[(label, 0.5) for label in range(200_000)], *[[]] * 20_000]
    _, arguments = write_parts(folder, {"part-00000.jsonl": predicted(*rows)})
    return "num_scores", arguments | {"rows": 20_001, "labels": 200_000}


DATES = {
    "a date": pa.array([2**31 - 1, 5], pa.date32()), "a time stamp": pa.array([2**62, 5], pa.timestamp("us")),
    "a duration": pa.array([2**62, 5], pa.duration("s")), "a time of day": pa.array([2**62, 5], pa.time64("us")),
}  # fmt: skip


@case(r"refused: .*train\.parquet", *DATES)
def times_beyond_the_calendar_in_parquet(folder, name):
    return parquet(folder, text=DATES[name], labels=pa.array([["x"], ["y"]]))


def special_file(folder, kind, name):
    os.mkfifo(folder / name) if kind == "pipe" else (folder / name).symlink_to("/dev/zero")
    return str(folder / name)


USES = {
    "jsonl": lambda folder, kind: (special_file(folder, kind, "train.jsonl"), ("source", {"kind": "jsonl"})),
    "parquet": lambda folder, kind: (special_file(folder, kind, "train.parquet"), ("source", {"kind": "parquet"})),
    "texts": lambda folder, kind: ("", ("texts", {"url": special_file(folder, kind, "a.txt")})),
    "packed texts": lambda folder, kind: ("", ("texts", {"url": special_file(folder, kind, "a.txt.gz")})),
    "clusters": lambda folder, kind: ("", ("clusters", {"file": special_file(folder, kind, "c.pkl")})),
    "chain": lambda folder, kind: (special_file(folder, kind, "C0.npz"), ("chain", {"folder": str(folder)})),
    "scores": lambda folder, kind: (
        "", ("scores", {"file": special_file(folder, kind, "s.npz"), "rows": 2, "labels": 3})),
    "config": lambda folder, kind: ("", ("config", {"file": special_file(folder, kind, "c.yaml")})),
}  # fmt: skip


@case(
    "refused: .*is a pipe, socket or device, not a file",
    *(f"{use}, {kind}" for use in USES for kind in ("pipe", "zeros")),
)
def files_that_never_end_or_wait_forever(folder, variant):
    use, kind = variant.split(", ")
    _, (action, arguments) = USES[use](folder, kind)
    if action == "source":
        suffix = arguments["kind"]
        (folder / f"test.{suffix}").write_bytes(b"")
        arguments |= {"path": str(folder)}
    return action, arguments


@case("refused: ", "http://[", "a\0b", "file://\0")
def names_that_no_file_can_have(folder, name):
    return "source", {"kind": "jsonl", "path": name}


TARGETS = ["0.5", "true", '"1"', "null", "[1]", "1e0", "NaN"]


@case(r"refused: .*trn\.json, line 1: not an object with title and target_ind", *range(len(TARGETS)))
def label_ids_that_are_no_integers(folder, number):
    for suffix in ("trn", "tst"):
        (folder / f"{suffix}.json").write_text(f'{{"title": "a", "target_ind": [{TARGETS[number]}]}}\n')
    (folder / "lbl.json").write_text("".join(json.dumps({"title": name}) + "\n" for name in "ab"))
    return "source", {"kind": "lf", "path": str(folder)}


@case(
    r"refused: .*filter_labels_train\.txt, line 1: not a row and a label",
    "² 0",
    "0 " + "9" * 5000,
    "0 -1",
    "0 1 2",
    "٣ 0",
)
def filters_that_are_no_pairs(folder, line):
    label_ids_that_are_no_integers(folder, 0)
    for suffix in ("trn", "tst"):
        (folder / f"{suffix}.json").write_text('{"title": "a", "target_ind": [0]}\n')
    (folder / "filter_labels_train.txt").write_text(line + "\n")
    return "source", {"kind": "lf", "path": str(folder)}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    cases = {name: build(tmp_path_factory.mktemp("case")) for name, (build, _) in CASES.items()}
    return outcomes(cases)


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_file_is_refused_and_an_honest_one_read(found, name):
    assert re.match(CASES[name][1], found[name], re.DOTALL), found[name]
