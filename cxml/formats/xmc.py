"""The raw form of the Extreme Classification Repository's data sets.

`train_raw_texts.txt` and `test_raw_texts.txt`: UTF-8, one text per line. Labels: `Y.trn.npz` and `Y.tst.npz`, SciPy CSR
matrices [N, L], or sparse text in `Y.trn.txt` or `trn_X_Y.txt`. `Y.txt`, if there: one label name per line.
"""

from __future__ import annotations

from cxml.formats.paired import Layout, PairedReader

_LAYOUT = Layout(
    texts={"train": ["train_raw_texts.txt"], "test": ["test_raw_texts.txt"]},
    labels={
        "train": ["Y.trn.npz", "Y.trn.txt", "trn_X_Y.txt"],
        "test": ["Y.tst.npz", "Y.tst.txt", "tst_X_Y.txt"],
    },
    names=["Y.txt"],
)


def open_xmc(folder: str) -> PairedReader:
    """The reader of a folder or fsspec URL. Raises `DataError` if a file is missing."""
    return PairedReader(folder, _LAYOUT)
