"""PECOS's raw forms.

Either `train.tsv` (or `train.txt`) and the same for test, `id,id,...<TAB>text` per line, ids from 0 into
`output-labels.txt`, a name per line; ids may have a weight (`id:0.5`), and are ignored if it is 0. Or `X.trn.txt`
and `X.tst.txt`, a text per line, with `Y.trn.npz` and `Y.tst.npz`; names in `output-labels.txt`, if there.
"""

from __future__ import annotations

from collections.abc import Iterator

from cxml.formats.files import find_file, require_file
from cxml.formats.lines import read_lines
from cxml.formats.numbers import parse_entries
from cxml.formats.paired import Layout, PairedReader
from cxml.formats.reader import SPLITS, Problem, Reader
from cxml.formats.records import Record, RecordReader

_NAMES = "output-labels.txt"
_LAYOUT = Layout(
    texts={"train": ["X.trn.txt"], "test": ["X.tst.txt"]},
    labels={"train": ["Y.trn.npz"], "test": ["Y.tst.npz"]},
    names=[_NAMES],
)
_FORM = "A line is 'id,id,...<TAB>text', ids from 0. Or skip such rows: --data.on-error skip."


def open_pecos(folder: str) -> Reader:
    """The reader of a folder or fsspec URL. Raises `DataError` if a file is missing."""
    if find_file(folder, ["train.tsv", "train.txt"]) is None and find_file(folder, ["X.trn.txt"]):
        return PairedReader(folder, _LAYOUT)
    return TsvReader(folder)


class TsvReader(RecordReader):
    """Reads `train.tsv` and `test.tsv`."""

    def __init__(self, folder: str) -> None:
        files = {split: [require_file(folder, [f"{split}.tsv", f"{split}.txt"])] for split in SPLITS}
        super().__init__(folder, files, require_file(folder, [_NAMES]))

    def records(self, url: str) -> Iterator[Record]:
        """The lines of one file."""
        for lines in read_lines(url):
            for place, line in enumerate(lines.lines):
                yield _parse(url, lines.first + place, line, lines.broken.get(place))


def _parse(url: str, number: int, line: str, broken: Problem | None) -> Record:
    if broken is not None:
        return Record(url, number, problem=broken)
    ids, tab, text = line.partition("\t")
    try:
        labels = parse_entries(entry for entry in ids.split(",") if entry.strip())
    except ValueError:
        labels = None
    if not tab or labels is None:
        return Record(url, number, problem=Problem(url, number, "not label ids, a tab and a text", _FORM))
    return Record(url, number, text, labels)
