"""Statistics of a prepared data set: counts, distributions, tail share, examples."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cxml import extras, storage, urls
from cxml.console import counted
from cxml.data import DataManifest, ShardedDataset, read_label_table

_TAIL = 5  # a label with at most this many train texts counts as tail
_QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
_QUANTILE_NAMES = ("min", "25%", "50%", "75%", "95%", "99%", "max")


@dataclass(frozen=True)
class SplitStatistics:
    """Tokens and labels of each text of a split, int64 [N] each."""

    tokens: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Statistics:
    """Facts about a prepared data set.

    Attributes:
        manifest: its manifest.
        splits: distributions per split.
        train_frequency: train texts of each label, int64 [L].
    """

    manifest: DataManifest
    splits: dict[str, SplitStatistics]
    train_frequency: np.ndarray

    @property
    def tail_share(self) -> float:
        """Share of the labels with 1 to 5 train texts."""
        return float(np.mean((self.train_frequency > 0) & (self.train_frequency <= _TAIL)))

    @property
    def unseen_share(self) -> float:
        """Share of the labels without a train text."""
        return float(np.mean(self.train_frequency == 0))


def collect_statistics(url: str) -> Statistics:
    """Count the data set under `url`; reads list offsets and the label table only."""
    manifest = DataManifest.read(url)
    datasets = {split: ShardedDataset(url, split) for split in manifest.splits}
    splits = {split: SplitStatistics(data.lengths, data.label_counts) for split, data in datasets.items()}
    return Statistics(manifest, splits, read_label_table(url).frequency)


def print_statistics(url: str, statistics: Statistics, num_examples: int) -> None:
    """Tables for a terminal or a log."""
    console = Console()
    console.print(_counts(url, statistics))
    console.print(_distributions(statistics))
    if num_examples:
        console.print(_examples(url, statistics.manifest, num_examples))


def draw(statistics: Statistics, file: str) -> None:
    """Histograms of text lengths, labels per text and texts per label as one PNG.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    extras.require("--plot", file, "matplotlib")
    from matplotlib.figure import Figure  # noqa: PLC0415 - an optional package

    figure = Figure(figsize=(13, 4), layout="constrained")
    tokens, labels, frequency = figure.subplots(1, 3)
    for split, numbers in statistics.splits.items():
        tokens.hist(numbers.tokens, bins=50, histtype="step", density=True, label=split)
        top = int(numbers.labels.max())
        bins = np.arange(1, top + 2) - 0.5 if top <= 100 else 50
        labels.hist(numbers.labels, bins=bins, histtype="step", density=True, label=split)
    tokens.set(title="Length of the texts", xlabel="tokens", ylabel="share")
    labels.set(title="Labels of a text", xlabel="labels")
    labels.legend()
    frequency.loglog(np.arange(1, len(statistics.train_frequency) + 1), np.sort(statistics.train_frequency)[::-1])
    frequency.set(title="Train texts of a label", xlabel="labels, most frequent first", ylabel="texts")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120, metadata={"Software": None})
    storage.write_atomic(file, stream.getvalue())


def _counts(url: str, statistics: Statistics) -> Table:
    manifest = statistics.manifest
    table = Table(title=Text(urls.masked(url)), show_header=False)
    for split, shards in manifest.splits.items():
        megabytes = sum(shard.bytes for shard in shards) / 1e6
        size = f"{manifest.rows(split):,} in {counted(len(shards), 'shard')}, {megabytes:,.1f} MB"
        table.add_row(f"{split} texts", size)
    table.add_row("labels", f"{manifest.num_labels:,}")
    table.add_row(f"labels with 1 to {_TAIL} train texts", f"{statistics.tail_share:.1%}")
    table.add_row("labels without a train text", f"{statistics.unseen_share:.1%}")
    table.add_row("tf-idf terms", f"{manifest.num_features:,}")
    table.add_row("tokenizer", f"{manifest.tokenizer.name}, {manifest.tokenizer.vocab_size:,} tokens")
    table.add_row("fingerprint", manifest.fingerprint)
    return table


def _distributions(statistics: Statistics) -> Table:
    table = Table("", "mean", *_QUANTILE_NAMES)
    rows = [
        (f"{what}, {split}", values)
        for split, numbers in statistics.splits.items()
        for what, values in (("tokens of a text", numbers.tokens), ("labels of a text", numbers.labels))
    ]
    for name, values in [*rows, ("train texts of a label", statistics.train_frequency)]:
        quantiles = np.quantile(values, _QUANTILES, method="lower")
        table.add_row(name, f"{values.mean():.1f}", *(f"{value:,.0f}" for value in quantiles))
    return table


def _examples(url: str, manifest: DataManifest, count: int) -> Table:
    names = read_label_table(url).shown
    table = Table("split", "row", "text", "labels", title="Examples", show_lines=True)
    for split in manifest.splits:
        dataset = ShardedDataset(url, split)
        rows = np.unique(np.linspace(0, len(dataset) - 1, count + 2).astype(np.int64)[1:-1])
        texts = dataset.texts(rows) if dataset.has_texts else ["(not kept)"] * len(rows)
        _, labels = dataset.gather(rows)
        for i, (row, text) in enumerate(zip(rows.tolist(), texts, strict=True)):
            own = labels.values[labels.offsets[i] : labels.offsets[i + 1]]
            labels_text = Text("; ".join(names[label] for label in own))  # plain text, without markup
            table.add_row(split, str(row), Text(text), labels_text)
    return table
