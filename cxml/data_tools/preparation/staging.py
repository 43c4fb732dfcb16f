"""Blocks between the two passes: tokenised, with their terms under numbers of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cxml import storage
from cxml.data import Ragged
from cxml.data_tools.preparation.terms import TermRows

_LISTS = ("input_ids", "labels", "term_codes", "term_counts")
_LABEL_COUNTS = pa.schema([("label", pa.int64()), ("texts", pa.int64())])


@dataclass(frozen=True)
class StagedBlock:
    """A block with all that does not depend on other blocks.

    Attributes:
        input_ids: token ids, int32.
        labels: label ids, int32.
        terms: terms of each text.
        texts: raw texts, or None if they are not kept.
    """

    input_ids: Ragged
    labels: Ragged
    terms: TermRows
    texts: Sequence[str] | None


def write_staged(stem: str, block: StagedBlock) -> None:
    """Write a block as three files that begin with the URL `stem`: rows, counts of terms, counts of labels."""
    term_counts = Ragged(block.terms.counts, block.terms.codes.offsets)
    lists = (block.input_ids, block.labels, block.terms.codes, term_counts)
    columns = {name: _to_arrow(rows) for name, rows in zip(_LISTS, lists, strict=True)}
    if block.texts is not None:
        columns["text"] = pa.array(block.texts, pa.large_string())
    write_table(f"{stem}.rows.arrow", pa.table(columns))
    write_table(f"{stem}.terms.arrow", block.terms.table())
    labels, texts = np.unique(block.labels.values, return_counts=True)
    write_table(f"{stem}.labels.arrow", pa.table([labels.astype(np.int64), texts], schema=_LABEL_COUNTS))


def read_staged(stem: str) -> StagedBlock:
    """The block that `write_staged` wrote."""
    rows = read_table(f"{stem}.rows.arrow").combine_chunks()
    input_ids, labels, codes, counts = (_to_ragged(rows[name]) for name in _LISTS)
    terms = TermRows(read_term_counts(stem)["term"].to_pylist(), codes, counts.values)
    texts = rows["text"].to_pylist() if "text" in rows.column_names else None
    return StagedBlock(input_ids, labels, terms, texts)


def read_term_counts(stem: str) -> pa.Table:
    """How often each term occurs in the block (`COUNTS_SCHEMA`)."""
    return read_table(f"{stem}.terms.arrow")


def read_label_counts(stem: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels of the block and the number of its texts that carry them, int64 each."""
    table = read_table(f"{stem}.labels.arrow")
    return table["label"].to_numpy(), table["texts"].to_numpy()


def write_table(url: str, table: pa.Table) -> None:
    """Write a table as one Arrow file, whole or not at all."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    storage.write_atomic(url, sink.getvalue().to_pybytes())


def read_table(url: str) -> pa.Table:
    """The table in an Arrow file."""
    return pa.ipc.open_file(pa.BufferReader(storage.read_bytes(url))).read_all()


def _to_arrow(rows: Ragged) -> pa.LargeListArray:
    return pa.LargeListArray.from_arrays(pa.array(rows.offsets, pa.int64()), pa.array(rows.values, pa.int32()))


def _to_ragged(column: pa.ChunkedArray) -> Ragged:
    lists = column.chunk(0)
    return Ragged(lists.values.to_numpy(), lists.offsets.to_numpy())
