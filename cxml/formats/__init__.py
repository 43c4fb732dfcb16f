"""Raw data sets: one reader per form, all streaming through one interface.

Input: `data.source` of the config.

1. `open_source` returns the `Reader` of the form, which finds and identifies the files.
2. `TitledReader` joins it with the labels file, which has the titles and descriptions of the labels.
3. A `Reader` yields `RawChunk`s of a few thousand rows: texts, label ids and read errors.
4. A `Cleaner` rejects or skips broken rows, counts them, and sorts the labels.
5. `read_blocks` groups the clean rows into blocks of an exact size, one per shard.

Output: `Block`s in bounded memory, or all rows as a `RawDataset` (`read_source`).
"""

from cxml.formats.blocks import Block, read_blocks
from cxml.formats.cleaning import Cleaner
from cxml.formats.label_columns import LabelColumns, guess_label_columns
from cxml.formats.label_text import NoLabelsError, is_list, parse_list, split_names
from cxml.formats.labels_file import find_labels_file
from cxml.formats.lines import read_all_lines
from cxml.formats.numbers import parse_count
from cxml.formats.raw import RawDataset, RawSplit
from cxml.formats.reader import SPLITS, Problem, RawChunk, Reader
from cxml.formats.sources import no_texts, open_source, read_source, require_texts, source_facts
from cxml.formats.split_column import find_split_column
from cxml.formats.table_columns import guess_columns, only_other, recurring_separator
from cxml.formats.text_columns import NoTextError, split_columns, text_of
from cxml.formats.texts import STDIN, TextChunk, TextSource, read_texts
from cxml.formats.titled import TitledReader

__all__ = [
    "SPLITS", "STDIN", "Block", "Cleaner", "LabelColumns", "NoLabelsError", "NoTextError", "Problem", "RawChunk",
    "RawDataset", "RawSplit", "Reader", "TextChunk", "TextSource", "TitledReader", "find_labels_file",
    "find_split_column", "guess_columns", "guess_label_columns", "is_list", "no_texts", "only_other", "open_source",
    "parse_count", "parse_list", "read_all_lines", "read_blocks", "read_source", "read_texts", "recurring_separator",
    "require_texts", "source_facts", "split_columns", "split_names", "text_of",
]  # fmt: skip
