"""Split off a validation split from the train split of a prepared data set."""

from __future__ import annotations

import numpy as np

from cxml import storage
from cxml.data import (
    DataManifest,
    DatasetWriter,
    ShardedDataset,
    held_out_rows,
    num_held_out,
    read_label_table,
    read_vocabulary,
    verify,
)
from cxml.errors import ConfigError
from cxml.storage.locks import locked


def hold_out(url: str, out: str, *, fraction: float, seed: int, name: str = "validation") -> DataManifest:
    """Copy the data set under `url` to `out`, with a share of its train texts as a separate split.

    Rows keep their order and are renumbered; the label table counts the remaining train texts. Tokens and tf-idf do not
    change, so the document frequencies still include the held-out texts.

    Args:
        url: the prepared data set; its checksums are verified first.
        out: an empty location.
        fraction: share of the train texts to hold out.
        seed: seed of their choice.
        name: name of the new split; `test` replaces the test split, so that settings can be chosen without it.

    Raises:
        ConfigError: the fraction is invalid, or a split of that name exists.
        StaleArtefactError: `out` contains a data set.
        InUseError: another command writes to `out`.
    """
    with locked(out):
        return _hold_out(url, out, fraction, seed, name)


def _hold_out(url: str, out: str, fraction: float, seed: int, name: str) -> DataManifest:
    manifest = verify(url)
    num_train = manifest.rows("train")
    if not 0 < num_held_out(num_train, fraction) < num_train:
        problem = f"leaves one of the two splits of {num_train} texts empty"
        raise ConfigError("--fraction", fraction, problem, "Choose another share, such as 0.1.")
    if (name in manifest.splits and name != "test") or not name.isidentifier():
        raise ConfigError("--name", name, "is taken or is not a plain word", "Choose another name, such as validation.")
    kept, held = held_out_rows(num_train, fraction, seed)
    rows = {"train": kept, name: held}

    writer = DatasetWriter(out)
    labels = read_label_table(url)
    names = labels.names
    train = ShardedDataset(url, "train")
    writer.write_labels(names, _frequency(train, rows["train"], len(names)), labels.titles)
    if manifest.vocabulary is not None:
        writer.write_vocabulary(read_vocabulary(url))
    shard_rows = max(shard.rows for shard in manifest.splits["train"])
    for split in (*rows, *(split for split in manifest.splits if split not in ("train", name))):
        dataset = train if split in rows else ShardedDataset(url, split)
        chosen = rows.get(split, np.arange(len(dataset)))
        for start in range(0, len(chosen), shard_rows):
            writer.write_shard(split, dataset.examples(chosen[start : start + shard_rows]))
    held_out = {"parent": manifest.fingerprint, "fraction": fraction, "seed": seed, "name": name}
    return writer.commit(
        fingerprint=storage.fingerprint("split", held_out),
        parent=manifest.parent or manifest.fingerprint,
        config=manifest.config,
        tokenizer=manifest.tokenizer,
        num_features=manifest.num_features,
        source=manifest.source,
        skipped=manifest.skipped,
    )


def _frequency(train: ShardedDataset, rows: np.ndarray, num_labels: int) -> np.ndarray:
    _, labels = train.gather(rows)
    return np.bincount(labels.values, minlength=num_labels)
