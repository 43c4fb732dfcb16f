r"""Tf-idf over single words in two passes that shard: counts that add up, then rows that depend on nothing else.

Terms are lower-cased runs of letters, digits and underscores. One-letter words are kept: in short texts such as
"hepatitis B" they carry the meaning. The vocabulary is the most frequent terms of the train texts, in the order of
their code points; of equally frequent ones the first in that order stay. The weight of a term is (1 + ln count) x idf
with idf = 1 + ln((1 + N) / (1 + documents)); rows have length 1. This is scikit-learn's TfidfVectorizer with
sublinear_tf and token_pattern r"\b\w+\b".
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from scipy import sparse

from cxml.data.ragged import lengths_to_offsets
from cxml.errors import DataError

_WORDS = re.compile(r"\w+|\n")  # a newline ends a text; it is in no word
_TEXTS_AT_ONCE = 2048  # bounds the memory of the words of long texts
_UNKNOWN, _END = -1, -2

COUNTS_SCHEMA = pa.schema([("term", pa.string()), ("count", pa.int64()), ("documents", pa.int64())])


def count_terms(texts: Sequence[str]) -> pa.Table:
    """Each term of `texts`, how often it occurs, and in how many of them (columns of `COUNTS_SCHEMA`)."""
    codes: defaultdict[str, int] = defaultdict(itertools.count().__next__)
    end = codes["\n"]
    counts = documents = np.zeros(0, np.int64)
    for words in _words(texts):
        code_of = np.fromiter(map(codes.__getitem__, words), np.int64, len(words))
        is_term = code_of != end
        terms_of, row_of = code_of[is_term], np.cumsum(~is_term)[is_term]
        pairs = np.unique(row_of * len(codes) + terms_of)
        counts = _add(counts, np.bincount(terms_of, minlength=len(codes)))
        documents = _add(documents, np.bincount(pairs % len(codes), minlength=len(codes)))
    table = pa.table([pa.array(list(codes), pa.string()), counts, documents], schema=COUNTS_SCHEMA)
    return table.slice(1)  # without the end of a text


def add_counts(tables: Sequence[pa.Table]) -> pa.Table:
    """One table of counts for the texts of all of `tables`."""
    added = pa.concat_tables(tables).group_by("term").aggregate([("count", "sum"), ("documents", "sum")])
    return added.select(["term", "count_sum", "documents_sum"]).rename_columns(COUNTS_SCHEMA.names)


@dataclass(frozen=True)
class Vocabulary:
    """The terms that become features, and their weights.

    Attributes:
        terms: F terms in the order of their code points; a feature's number is its place.
        idf: float64 [F].
    """

    terms: list[str]
    idf: np.ndarray

    @classmethod
    def choose(cls, counts: pa.Table, num_texts: int, max_features: int) -> Vocabulary:
        """The most frequent terms of `num_texts` texts.

        Raises:
            DataError: there is no term.
        """
        if not counts.num_rows:
            raise DataError("train texts", "no tf-idf vocabulary: they hold no word", "Give texts that hold words.")
        by_frequency = counts.sort_by([("count", "descending"), ("term", "ascending")])
        kept = by_frequency.slice(0, max_features).sort_by("term")
        documents = kept["documents"].to_numpy()
        return cls(kept["term"].to_pylist(), 1 + np.log((1 + num_texts) / (1 + documents)))

    def features(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """Tf-idf of each text, CSR float32 [n, F] with sorted indices; a text without a known term has an empty row."""
        rows, columns, weights = [], [], []
        first_row = 0
        for words in _words(texts):
            number_of = map(self._numbers.get, words, itertools.repeat(_UNKNOWN))
            numbers = np.fromiter(number_of, np.int64, len(words))
            known = numbers >= 0
            row_of = np.cumsum(numbers == _END)
            pairs, counts = np.unique(row_of[known] * len(self.terms) + numbers[known], return_counts=True)
            rows.append(first_row + pairs // len(self.terms))
            columns.append(pairs % len(self.terms))
            weights.append((1 + np.log(counts)) * self.idf[columns[-1]])
            first_row += int(row_of[-1])
        shape = len(texts), len(self.terms)
        return _to_unit_rows(np.concatenate(rows), np.concatenate(columns), np.concatenate(weights), shape)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {"\n": _END, **{term: number for number, term in enumerate(self.terms)}}


def _words(texts: Sequence[str]) -> Iterator[list[str]]:
    """Words of some texts at a time, a newline after each text."""
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        some = texts[start : start + _TEXTS_AT_ONCE]
        joined = "\n".join(some) + "\n"
        if joined.count("\n") != len(some):
            joined = "\n".join(text.replace("\n", " ") for text in some) + "\n"
        yield _WORDS.findall(joined.lower())


def _add(sums: np.ndarray, more: np.ndarray) -> np.ndarray:
    """`more`, which is at least as long, plus `sums`."""
    more[: len(sums)] += sums
    return more


def _to_unit_rows(
    rows: np.ndarray, columns: np.ndarray, weights: np.ndarray, shape: tuple[int, int]
) -> sparse.csr_matrix:
    norms = np.sqrt(np.bincount(rows, weights**2, minlength=shape[0]))
    values = (weights / norms[rows]).astype(np.float32)
    offsets = lengths_to_offsets(np.bincount(rows, minlength=shape[0]))
    return sparse.csr_matrix((values, columns.astype(np.int32), offsets), shape)
