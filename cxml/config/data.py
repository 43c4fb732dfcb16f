"""The section `data`: raw texts, and how they become shards."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from cxml.config.fields import require, require_at_least, setting


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Location and format of the raw texts and labels."""

    kind: Literal["xmc", "lightxml", "lf", "pecos", "jsonl", "csv", "parquet", "table", "icd10cm"] = "xmc"
    """Format of the raw files in `path`; docs/formats.md describes each. `xmc`: texts and label matrices of the Extreme
    Classification Repository. `lightxml`: the text and label files of LightXML and AttentionXML, one line per text.
    `lf`: the repository's trn.json with label texts and filter files. `pecos`: PECOS's train.tsv, or texts and
    matrices. `jsonl`, `csv`, `parquet`: one row per text; columns can have any name. `table`: one file or a folder of
    files in these formats, in TSV or in JSON, or a Hugging Face dataset; cxml finds the columns, and holds out test
    rows if no file is named test. `icd10cm`: the ICD-10-CM code book of the package simple-icd-10-cm; needs no path."""
    path: str = ""
    """Folder or fsspec URL of the raw files, which can be compressed (.gz, .zst, .bz2). With `table`, also a single
    file."""
    text_column: str = "text"
    """Column with the text, or several whose texts are joined, such as `title+abstract` (`jsonl`, `csv`, `parquet`,
    `table`)."""
    labels_column: str = "labels"
    """Column with the label names, as a list or as a string with separators; or several columns with one label in each
    cell, such as `category+subcategory` (`jsonl`, `csv`, `parquet`, `table`). With `table`, these can also be columns
    of 0 and 1, whose names are the labels."""
    label_ids: bool = setting(False, since_files=True)
    """Whether the labels column contains ids instead of names. Ids are line numbers of the file labels.txt, from 0
    (`jsonl`, `csv`, `parquet`, `table`)."""
    id_column: str = ""
    """Column of keys that are unique within a split; empty: no keys (`jsonl`, `csv`, `parquet`, `table`)."""
    label_separator: str = "auto"
    """Separator between labels if the labels column contains strings (`jsonl`, `csv`, `parquet`, `table`). `auto`: a
    comma, except with `table` if the names between another separator recur in the first rows."""
    labels_file: str = setting("auto", "none")
    """Path or fsspec URL of a file with a title and optionally a description for each label: columns `id`, `name` and
    `description` (TSV, CSV, JSON lines or Parquet; docs/formats.md). `auto`: labels.tsv, label_names.csv or a similar
    name in the folder `path`, if it exists; empty: none. Not for `icd10cm`."""
    unseen_labels: bool = setting(False, since_files=True)
    """Whether labels of the labels file that no text has become labels too. Only their titles can predict them
    (evidence.names). Cannot be used if another file lists the labels, such as labels.txt or a label matrix."""
    chapters: tuple[str, ...] = ()
    """Numbers, from 1 to 22, of the ICD-10-CM chapters to use; empty: all (`icd10cm` only)."""
    test_fraction: float = 0.2
    """Share of the texts that is held out as the test split, in (0, 1). Applies to `icd10cm`, and to `table` if no file
    is named test. Other formats contain a test split."""
    split_seed: int = 0
    """Seed of the split that test_fraction makes."""

    @property
    def separator(self) -> str:
        """The separator between labels; a comma for `auto`."""
        return "," if self.label_separator == "auto" else self.label_separator

    def __post_init__(self) -> None:
        require(
            self.kind == "icd10cm" or bool(self.path), "data.source.path", self.path,
            f"the {self.kind} source needs a folder",
            "Give the folder of the raw files, such as train_raw_texts.txt; docs/formats.md lists them.",
        )  # fmt: skip
        for name in ("text_column", "labels_column", "label_separator"):
            value = getattr(self, name)
            require(bool(value), f"data.source.{name}", value, "is empty", "Leave it out to use the default.")
        require(
            0 < self.test_fraction < 1, "data.source.test_fraction", self.test_fraction,
            "must be above 0 and below 1", "Use 0.2 to hold out a fifth of the texts.",
        )  # fmt: skip
        require_at_least("data.source.split_seed", self.split_seed, 0)
        require(
            not self.label_ids or self.kind in ("jsonl", "csv", "parquet", "table"),
            "data.source.label_ids", self.label_ids,
            f"cannot be used with data.source.kind {self.kind}", "Leave it out: the kind determines it.",
        )  # fmt: skip
        require(
            self.kind != "icd10cm" or self.labels_file in ("auto", ""), "data.source.labels_file", self.labels_file,
            "cannot be used with data.source.kind icd10cm", "Leave it out: the code book names its codes.",
        )  # fmt: skip
        require(
            not self.unseen_labels or bool(self.labels_file), "data.source.unseen_labels", self.unseen_labels,
            "needs a labels file", "Name it: data.source.labels_file.",
        )  # fmt: skip
        for chapter in self.chapters:
            known = re.fullmatch("0*[0-9]{1,2}", chapter, re.ASCII) and 1 <= int(chapter) <= 22
            require(bool(known), "data.source.chapters", chapter, "no such chapter", "Chapters are numbered 1 to 22.")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Preparation of raw texts as Arrow shards."""

    source: SourceConfig
    directory: str = setting("", "none")
    """Folder or URL of the prepared shards; empty: `data` in the run's output. Several runs can share it."""
    on_error: Literal["refuse", "skip"] = "refuse"
    """What preparation does with a broken row (not UTF-8, no text, no label, a label out of range, a repeated key).
    `refuse` stops with an error that names file and line. `skip` leaves the row out and counts it in the manifest."""
    engine: Literal["auto", "local", "ray"] = setting("auto", "none")
    """Where the data are prepared; the files are the same byte for byte. `local`: in this process. `ray`: on the Ray
    cluster of RAY_ADDRESS, or on a temporary local cluster. `auto`: on Ray if it is installed and the raw files have
    256 MiB or more, else in this process."""
    num_workers: int = setting(0, "none")
    """Number of Ray workers that tokenise, with one CPU each; 0: all CPUs of the cluster."""
    max_length: int = setting(128, choosable=True)
    """Maximum length of a text in tokens, including special tokens; longer texts are cut off. A value above the number
    of positions of the encoder requires model.window."""
    shard_rows: int = 65536
    """Number of texts per Arrow shard."""
    keep_text: bool = True
    """Whether the shards contain the raw text, for reports and examples."""
    tfidf_max_features: int = 500_000
    """Maximum number of terms (single words) in the tf-idf vocabulary, which keeps the most frequent ones. The label
    tree, the baseline and evidence.words use it."""
    propensity_a: float = setting(0.55, "none")
    """Constant A of the propensity model (Jain et al. 2016): 0.6 for Amazon data sets, 0.5 for Wiki-500K, 0.55 for
    others."""
    propensity_b: float = setting(1.5, "none")
    """Constant B of the propensity model: 2.6 for Amazon data sets, 0.4 for Wiki-500K, 1.5 for others."""

    def __post_init__(self) -> None:
        require_at_least("data.max_length", self.max_length, 3)
        require_at_least("data.num_workers", self.num_workers, 0)
        require_at_least("data.shard_rows", self.shard_rows, 1)
        require_at_least("data.tfidf_max_features", self.tfidf_max_features, 1)
        require_at_least("data.propensity_a", self.propensity_a, 0)
        require_at_least("data.propensity_b", self.propensity_b, 0)
