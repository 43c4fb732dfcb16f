"""Which reader serves which `data.source.kind`."""

from __future__ import annotations

from typing import Any

from cxml.config import SourceConfig
from data_tools.formats import icd10cm, xmc
from data_tools.formats.raw import RawDataset


def read_source(source: SourceConfig) -> RawDataset:
    """Read and check the raw data.

    Raises:
        DataError: a file is missing or broken; file, line and remedy are named.
        ConfigError: a package that the source needs is not installed.
    """
    if source.kind == "icd10cm":
        return icd10cm.read(source.chapters, source.test_fraction, source.split_seed)
    return xmc.read(source.path)


def source_facts(source: SourceConfig) -> dict[str, Any]:
    """What identifies the raw data: sizes and hashes of its files, or the version of its package. Raises as above."""
    facts = icd10cm.facts() if source.kind == "icd10cm" else xmc.facts(source.path)
    return {"kind": source.kind, **facts}
