r"""Tf-idf over single words in two parallel passes: additive counts, then independent rows.

Terms are lower-cased sequences of letters, digits and underscores. One-letter words are kept, because they carry
meaning in short texts such as "hepatitis B". The vocabulary consists of the most frequent terms of the train texts,
sorted by code points, which also breaks ties of frequency. The weight of a term is (1 + ln count) x idf with
idf = 1 + ln((1 + N) / (1 + documents)); rows have norm 1. This equals scikit-learn's TfidfVectorizer with
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

from cxml.artefacts import as_numpy
from cxml.data.ragged import Ragged, lengths_to_offsets
from cxml.data.schema import VOCABULARY_SCHEMA
from cxml.errors import DataError

_WORDS = re.compile(r"\w+|\n")  # a newline separates texts; no word contains it
_TEXTS_AT_ONCE = 2048  # limits the memory for the words of long texts
_UNKNOWN = -1

COUNTS_SCHEMA = pa.schema([("term", pa.string()), ("count", pa.int64()), ("documents", pa.int64())])


@dataclass(frozen=True)
class TermRows:
    """The terms of n texts, with local numbers.

    Attributes:
        terms: T distinct terms.
        codes: int32, each text's distinct terms as indices into `terms`.
        counts: int32 [nnz], count of each of `codes.values` in its text.
    """

    terms: list[str]
    codes: Ragged
    counts: np.ndarray

    def table(self) -> pa.Table:
        """Each term with its count and its number of texts (columns of `COUNTS_SCHEMA`)."""
        size = len(self.terms)
        occurrences = np.bincount(self.codes.values, self.counts, minlength=size).astype(np.int64)
        documents = np.bincount(self.codes.values, minlength=size)
        return pa.table([pa.array(self.terms, pa.string()), occurrences, documents], schema=COUNTS_SCHEMA)


def find_terms(texts: Sequence[str]) -> TermRows:
    """Find and count the terms of each text."""
    code_of: defaultdict[str, int] = defaultdict(itertools.count(-1).__next__)
    end = code_of["\n"]
    codes, counts, lengths = [], [], []
    for words in _words(texts):
        found = np.fromiter(map(code_of.__getitem__, words), np.int64, len(words))
        is_term = found != end
        row_of = np.cumsum(~is_term)
        size = len(code_of)
        pairs, times = np.unique(row_of[is_term] * size + found[is_term], return_counts=True)
        rows, own_codes = np.divmod(pairs, size)
        codes.append(own_codes.astype(np.int32))
        counts.append(times.astype(np.int32))
        lengths.append(np.bincount(rows, minlength=int(row_of[-1])))
    del code_of["\n"]
    offsets = lengths_to_offsets(np.concatenate(lengths))
    return TermRows(list(code_of), Ragged(np.concatenate(codes), offsets), np.concatenate(counts))


def add_counts(tables: Sequence[pa.Table]) -> pa.Table:
    """Add up tables of counts."""
    added = pa.concat_tables(tables).group_by("term").aggregate([("count", "sum"), ("documents", "sum")])
    return added.select(["term", "count_sum", "documents_sum"]).rename_columns(COUNTS_SCHEMA.names)


@dataclass(frozen=True)
class Vocabulary:
    """The terms used as features, and their weights.

    Attributes:
        terms: F terms sorted by code points; the index of a term is its feature number.
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
            raise DataError("train texts", "no tf-idf vocabulary: they contain no word", "Give texts with words.")
        by_frequency = counts.sort_by([("count", "descending"), ("term", "ascending")])
        kept = by_frequency.slice(0, max_features).sort_by("term")
        documents = kept["documents"].to_numpy()
        return cls(kept["term"].to_pylist(), 1 + np.log((1 + num_texts) / (1 + documents)))

    def table(self) -> pa.Table:
        """The terms and their weights (columns of `VOCABULARY_SCHEMA`)."""
        return pa.table([pa.array(self.terms, pa.string()), pa.array(self.idf)], schema=VOCABULARY_SCHEMA)

    @classmethod
    def of_table(cls, table: pa.Table) -> Vocabulary:
        """Restore the result of `table`."""
        return cls(table["term"].to_pylist(), as_numpy(table["idf"]))

    def of_texts(self, texts: Sequence[str]) -> sparse.csr_matrix:
        """`features` of raw texts."""
        if not texts:
            return sparse.csr_matrix((0, len(self.terms)), dtype=np.float32)
        return self.features(find_terms(texts))

    def features(self, rows: TermRows) -> sparse.csr_matrix:
        """Tf-idf of n texts, CSR float32 [n, F] with sorted indices; a text without a known term has an empty row."""
        numbers = map(self._numbers.get, rows.terms, itertools.repeat(_UNKNOWN))
        number_of_code = np.fromiter(numbers, np.int64, len(rows.terms))
        columns = number_of_code[rows.codes.values]
        row_of = np.repeat(np.arange(len(rows.codes)), rows.codes.lengths)
        known = np.flatnonzero(columns >= 0)
        order = known[np.argsort(row_of[known] * len(self.terms) + columns[known])]
        row_of, columns = row_of[order], columns[order]
        weights = (1 + np.log(rows.counts[order])) * self.idf[columns]
        return _to_unit_rows(row_of, columns, weights, (len(rows.codes), len(self.terms)))

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {term: number for number, term in enumerate(self.terms)}


def checked_vocabulary(table: pa.Table, file: str, remedy: str) -> Vocabulary:
    """The vocabulary in an untrusted table.

    Raises:
        DataError: a word occurs twice, or a weight is not a positive number.
    """
    vocabulary = Vocabulary.of_table(table)
    if len(set(vocabulary.terms)) != len(vocabulary.terms):
        raise DataError(file, "contains a word twice", remedy)
    if not ((vocabulary.idf > 0) & np.isfinite(vocabulary.idf)).all():
        raise DataError(file, "contains a weight that is not a positive number", remedy)
    return vocabulary


def _words(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield the words of a few texts at a time, with a newline after each text."""
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        some = texts[start : start + _TEXTS_AT_ONCE]
        joined = "\n".join(some) + "\n"
        if joined.count("\n") != len(some):
            joined = "\n".join(text.replace("\n", " ") for text in some) + "\n"
        yield _WORDS.findall(joined.lower())


def _to_unit_rows(
    rows: np.ndarray, columns: np.ndarray, weights: np.ndarray, shape: tuple[int, int]
) -> sparse.csr_matrix:
    norms = np.sqrt(np.bincount(rows, weights**2, minlength=shape[0]))
    values = (weights / norms[rows]).astype(np.float32)
    offsets = lengths_to_offsets(np.bincount(rows, minlength=shape[0]))
    return sparse.csr_matrix((values, columns.astype(np.int32), offsets), shape)
