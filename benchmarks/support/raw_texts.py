"""Raw data of any size from real texts: ICD-10-CM's, drawn at random with one word left out of each."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from cxml.config import SourceConfig
from cxml.formats import RawDataset, read_source

_TEXTS_AT_ONCE = 100_000


@functools.cache
def _code_book() -> RawDataset:
    return read_source(SourceConfig(kind="icd10cm"))


def write_raw(folder: Path, num_texts: int, seed: int = 0) -> None:
    """Write `num_texts` train texts and a hundredth as many test texts in the XMC repository's sparse text form."""
    raw = _code_book()
    texts = [text.split() for text in raw.splits["train"].texts]
    labels = raw.splits["train"].labels
    label_lines = [" ".join(f"{label}:1" for label in labels[row].indices) for row in range(len(texts))]
    folder.mkdir(parents=True)
    (folder / "Y.txt").write_text("".join(f"{name}\n" for name in raw.label_names))
    rng = np.random.default_rng(seed)
    for split, suffix, count in (("train", "trn", num_texts), ("test", "tst", max(1, num_texts // 100))):
        with (folder / f"{split}_raw_texts.txt").open("w") as text_file, (folder / f"Y.{suffix}.txt").open("w") as y:
            y.write(f"{count} {len(raw.label_names)}\n")
            for start in range(0, count, _TEXTS_AT_ONCE):
                rows = rng.integers(0, len(texts), min(_TEXTS_AT_ONCE, count - start))
                places = rng.random(len(rows))
                text_file.writelines(
                    _without_a_word(texts[row], place) for row, place in zip(rows, places, strict=True)
                )
                y.writelines(f"{label_lines[row]}\n" for row in rows)


def _without_a_word(words: list[str], place: float) -> str:
    left_out = int(place * len(words)) if len(words) > 2 else len(words)
    return " ".join(word for i, word in enumerate(words) if i != left_out) + "\n"
