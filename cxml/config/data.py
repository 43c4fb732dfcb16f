"""The section `data`: raw texts, and how they become shards."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from cxml.config.fields import require, require_at_least, setting


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Where the raw texts and labels come from."""

    kind: Literal["xmc", "lightxml", "lf", "pecos", "jsonl", "csv", "parquet", "table", "icd10cm"] = "xmc"
    """Raw form of the files in `path`, each described in docs/formats.md. `xmc`: the XMC repository's texts and label
    matrices. `lightxml`: LightXML's and AttentionXML's texts and labels, line by line. `lf`: the repository's
    trn.json with label texts and filter files. `pecos`: PECOS's train.tsv, or texts and matrices. `jsonl`, `csv`,
    `parquet`: one row per text, any column names. `table`: these and TSV, JSON and Hugging Face datasets, one file or a
    folder; columns may be guessed, and where no file is called test, rows are held out. `icd10cm`: the ICD-10-CM code
    book that the package simple-icd-10-cm ships; needs no path."""
    path: str = ""
    """Folder or fsspec URL of the raw files; any of them may be compressed (.gz, .zst, .bz2). `table` takes a file
    too."""
    text_column: str = "text"
    """Column of the text (`jsonl`, `csv`, `parquet`, `table`)."""
    labels_column: str = "labels"
    """Column of the names of the labels: a list, or a string with separators (`jsonl`, `csv`, `parquet`, `table`)."""
    label_ids: bool = setting(False, since_files=True)
    """The labels' column holds ids instead of names: line numbers of the file labels.txt, from 0 (`jsonl`, `csv`,
    `parquet`)."""
    id_column: str = ""
    """Column of a key that no two texts of a split may share; empty: none (`jsonl`, `csv`, `parquet`)."""
    label_separator: str = ","
    """What separates labels where a column holds them as one string (`jsonl`, `csv`, `parquet`, `table`)."""
    chapters: tuple[str, ...] = ()
    """ICD-10-CM chapters to keep, by number 1 to 22; empty keeps all (`icd10cm` only)."""
    test_fraction: float = 0.2
    """Share of the texts held out for the test split, in (0, 1) (`icd10cm`, and `table` where no file is called test;
    the others bring their own split)."""
    split_seed: int = 0
    """Seed of that split."""

    def __post_init__(self) -> None:
        require(
            self.kind == "icd10cm" or bool(self.path), "data.source.path", self.path,
            f"the {self.kind} source needs a folder",
            "Name the folder of train_raw_texts.txt or its like; docs/formats.md lists the files.",
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
            f"cannot be used with data.source.kind {self.kind}", "Leave it out: the kind decides it.",
        )  # fmt: skip
        for chapter in self.chapters:
            known = re.fullmatch("0*[0-9]{1,2}", chapter, re.ASCII) and 1 <= int(chapter) <= 22
            require(bool(known), "data.source.chapters", chapter, "no such chapter", "Chapters are numbered 1 to 22.")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How raw texts become Arrow shards."""

    source: SourceConfig
    directory: str = setting("", "none")
    """Folder or URL of the prepared shards; empty: `data` inside the run's output. Runs may share one."""
    on_error: Literal["refuse", "skip"] = "refuse"
    """What happens to a raw row that is broken (not UTF-8, no text, no label, a label out of range, a key seen
    before): `refuse` stops with its file and line, `skip` leaves it out and counts it in the manifest."""
    engine: Literal["auto", "local", "ray"] = setting("auto", "none")
    """What prepares the data, with the same bytes out: `local` is this process, `ray` a Ray cluster (RAY_ADDRESS, or
    one that is started on this machine for the while), `auto` takes Ray from 256 MB of raw files on."""
    num_workers: int = setting(0, "none")
    """Ray workers that tokenise, a CPU each; 0: all CPUs of the cluster."""
    max_length: int = setting(128, choosable=True)
    """Longest text in tokens, special tokens included; the rest of a longer text is cut off. More than the encoder has
    positions for needs model.window."""
    shard_rows: int = 65536
    """Texts per Arrow shard."""
    keep_text: bool = True
    """Keep the raw text in the shards, for reports and examples."""
    tfidf_max_features: int = 500_000
    """Most frequent terms kept in the tf-idf vocabulary (unigrams), which feeds the label tree and the baseline."""
    propensity_a: float = setting(0.55, "none")
    """Constant A of the propensity model (Jain et al. 2016): .6 for Amazon sets, .5 for Wiki-500K, .55 else."""
    propensity_b: float = setting(1.5, "none")
    """Constant B of the propensity model: 2.6 for Amazon sets, .4 for Wiki-500K, 1.5 else."""

    def __post_init__(self) -> None:
        require_at_least("data.max_length", self.max_length, 3)
        require_at_least("data.num_workers", self.num_workers, 0)
        require_at_least("data.shard_rows", self.shard_rows, 1)
        require_at_least("data.tfidf_max_features", self.tfidf_max_features, 1)
        require_at_least("data.propensity_a", self.propensity_a, 0)
        require_at_least("data.propensity_b", self.propensity_b, 0)
