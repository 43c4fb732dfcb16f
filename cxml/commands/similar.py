"""Find labels and training texts that are similar in a model's feature space.

python -m cxml.similar runs/quickstart --label "I21 Acute myocardial infarction"
python -m cxml.similar runs/quickstart --text "heart attack of the front wall"
python -m cxml.similar runs/quickstart --duplicates 0.999 > pairs.tsv
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from cxml import extras
from cxml.cli import run_tool
from cxml.console import write_out
from cxml.errors import ConfigError

if TYPE_CHECKING:
    from cxml.data import ShardedDataset


@dataclass(frozen=True, kw_only=True)
class SimilarCommand:
    """Show similar labels and train texts, by the cosine of the model's features.

    Prints tab-separated lines, the most similar first.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run's output, its model folder, a checkpoint, or an exported folder; path or fsspec URL."""
    label: str = ""
    """Name of a label; prints the most similar labels."""
    text: str = ""
    """A text; prints the most similar train texts with their labels."""
    duplicates: float = 0.0
    """Print all pairs of train texts with at least this cosine, as row, row, cosine, text, text, in the order of rows;
    0: off."""
    k: int = 10
    """Number of neighbours."""
    data: str = ""
    """Folder or URL of the prepared data set; empty: that of the run."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code: 0, or 2 after an error of cxml."""
    return run_tool(SimilarCommand, _run, "python -m cxml.similar", arguments, description=__doc__)


def _run(command: SimilarCommand) -> None:
    if sum(map(bool, (command.label, command.text, command.duplicates))) != 1:
        raise ConfigError("--label, --text, --duplicates", None, "one of them is required", "Give exactly one.")
    if command.k < 1 or not 0 <= command.duplicates <= 1:
        raise ConfigError("--k, --duplicates", (command.k, command.duplicates), "is out of range", "See --help.")
    extras.require("cxml.similar", "the search", "faiss")
    _search(command)


def _search(command: SimilarCommand) -> None:
    import numpy as np  # noqa: PLC0415  the heavy libraries

    from cxml.data import ShardedDataset, data_url, shown_labels  # noqa: PLC0415
    from cxml.prediction import Predictor  # noqa: PLC0415
    from cxml.prediction.similarity import label_id, label_similarity, text_similarity  # noqa: PLC0415

    predictor = Predictor.from_checkpoint(command.model)
    shown = shown_labels(predictor.names, predictor.titles)
    if command.label:
        wanted = np.array([label_id(predictor, command.label)])
        found = label_similarity(predictor).nearest_of(wanted, command.k)
        for label, cosine in zip(found.ids[0].tolist(), found.cosines[0].tolist(), strict=True):
            write_out(f"{cosine:.4f}\t{shown[label]}\n")
        return
    dataset = ShardedDataset(command.data or data_url(predictor.parts.config), "train")
    index = text_similarity(predictor, dataset)
    if command.text:
        found = index.nearest(predictor.embed([command.text]), command.k)
        labels = _label_names(dataset, found.ids[0], shown)
        lines = zip(found.cosines[0].tolist(), dataset.texts(found.ids[0]), labels, strict=True)
        for cosine, text, names in lines:
            write_out(f"{cosine:.4f}\t{_one_line(text)}\t{names}\n")
        return
    for first, second, cosine in index.pairs_above(command.duplicates):
        texts = [_one_line(text) for text in dataset.texts(np.array([first, second]))]
        write_out(f"{first}\t{second}\t{cosine:.6f}\t{texts[0]}\t{texts[1]}\n")


def _label_names(dataset: ShardedDataset, rows, names: Sequence[str]) -> list[str]:  # noqa: ANN001 - numpy is not loaded
    """The labels of some rows, joined to one string per row."""
    _, labels = dataset.gather(rows)
    return ["; ".join(str(names[label]) for label in labels.slice(i, i + 1).values.tolist()) for i in range(len(rows))]


def _one_line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main())
