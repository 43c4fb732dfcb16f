"""What the titles of labels tell about labels without a train text, with the trained model of a run.

    python benchmarks/quality/titles.py RUN [--data FOLDER] [--halvings 1] [--sources words neighbours]

RUN is the output of a finished run whose model has evidence. FOLDER is a data set of the same texts that was prepared
with a labels file; it need not be the run's own. Only validation texts are looked at. The titles are embedded as
`evidence.names` does, in place of the names that the run has, if any. The combination is learnt on a random half of the
validation texts and evaluated on the other, and the other way round. Prints P@1, P@5 and nDCG@5 of all labels, and
recall@5 of the labels without a train text in the ranking of all labels: for the nearest names and the nearest titles
alone, for the cascade, for the mean of all parts and for what was learnt. A line shows the nearest titles in the
ranking of the labels without a train text alone. The last line is JSON: recall@5 of the nearest titles against that of
the nearest names, or of chance if that is more.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import sparse

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.closing_line import print_closing_line

from cxml.data import ShardedDataset, data_url, held_out_rows, read_label_table
from cxml.evidence import (
    CANDIDATES,
    NameSource,
    Pairs,
    Proposals,
    TextViews,
    candidate_pairs,
    choose_combination,
    evidence_folder,
    rank,
    read_evidence,
    unit_rows,
)
from cxml.evidence.nearest import VectorIndex
from cxml.metrics import USUAL_GROUPS, by_group, metric_sums, usual_groups
from cxml.prediction import Predictor
from cxml.training.evaluation import propensity_weights

KS = (1, 3, 5)
WAYS = ("cascade", "names", "mean", "learnt")
METRICS = ("P@1", "P@5", "nDCG@5", "zero-shot recall@5")
SHOWN = {"names": "nearest titles"}


def main() -> None:
    """Parse, propose, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--data", default="", help="prepared data with titles; default: that of the run")
    parser.add_argument("--halvings", type=int, default=1, help="random halvings of the validation texts")
    parser.add_argument("--sources", nargs="*", default=["words", "neighbours"], help="of the run, beside the titles")
    options = parser.parse_args()
    predictor = Predictor.from_checkpoint(options.run, evidence=False)
    data = options.data or data_url(predictor.parts.config)
    texts = ShardedDataset(data, "validation")
    tokens, true = texts.gather(np.arange(len(texts)))[0], texts.labels_csr()
    views = TextViews(texts.features(np.arange(len(texts))), predictor.embed_tokens(tokens))
    frequency, weights = predictor.parts.frequency, propensity_weights(predictor.parts.config)
    assert frequency is not None, "a run knows it"
    table = read_label_table(data)
    names, titles = (source_of(predictor, each) for each in (table.names, table.words.texts))

    found = {"nearest names": [metrics_of(names.propose(views, max(KS)).labels, true, frequency, weights)]}
    alone = predictor.predict_tokens(tokens, min(CANDIDATES, len(predictor.names)))
    pairs, sources = candidates(options, predictor, views, titles, Proposals(alone.labels, alone.scores))
    for seed in range(options.halvings):
        for way, labels in halved(pairs, true, weights, sources, seed).items():
            found.setdefault(SHOWN.get(way, way), []).append(metrics_of(labels, true, frequency, weights))
    print_among_unseen(titles, views, true, frequency)
    report({way: np.array(rows) for way, rows in found.items()}, chance=100 * max(KS) / len(frequency))


def source_of(predictor: Predictor, texts: Sequence[str]) -> NameSource:
    """A text about each label as a source."""
    vectors = unit_rows(predictor.embed(texts)).astype(np.float16)
    index = VectorIndex(vectors, np.array([0, len(vectors)]), vectors[:1].astype(np.float32))
    return NameSource(index, np.arange(len(vectors), dtype=np.int32), *NameSource.untuned)


def candidates(
    options: argparse.Namespace, predictor: Predictor, views: TextViews, titles: NameSource, cascade: Proposals
) -> tuple[Pairs, tuple[str, ...]]:
    """Candidates of all parts for the validation texts, and the names of the parts beside the cascade."""
    model = f"{options.run}/model"
    evidence = read_evidence(f"{model}/{evidence_folder(model)}", predictor.parts.tree)
    sources = [*(source for source in evidence.sources if source.name in options.sources), titles]
    proposed = [source.propose(views, CANDIDATES) for source in sources]
    return candidate_pairs(cascade, proposed, evidence.frequency), tuple(source.name for source in sources)


def halved(
    pairs: Pairs, true: sparse.csr_matrix, weights: np.ndarray, sources: tuple[str, ...], seed: int
) -> dict[str, np.ndarray]:
    """The best labels of all texts by each way, int64 [N, 5]; either half by what was learnt on the other."""
    num_texts = len(true.indptr) - 1
    halves = held_out_rows(num_texts, 0.5, seed)
    best = {way: np.full((num_texts, max(KS)), -1, np.int64) for way in WAYS}
    for learnt_from, judged in (halves, halves[::-1]):
        combination = choose_combination(part(pairs, learnt_from), true[learnt_from], weights, KS, sources=sources)
        own = part(pairs, judged)
        for way, labels in best.items():
            labels[judged] = rank(own, combination.score_by(way, own), len(judged), max(KS))[0]
    return best


def part(pairs: Pairs, rows: np.ndarray) -> Pairs:
    """The pairs of some texts, numbered anew; `rows` rise."""
    kept = np.isin(pairs.rows, rows)
    return Pairs(np.searchsorted(rows, pairs.rows[kept]), *(each[kept] for each in pairs[1:]))


def metrics_of(labels: np.ndarray, true: sparse.csr_matrix, frequency: np.ndarray, weights: np.ndarray) -> list[float]:
    """METRICS of the best labels of each text."""
    metrics = metric_sums(labels, true, KS, weights).result()
    groups = by_group(labels, true, frequency, weights, max(KS), group=usual_groups(frequency))
    unseen = groups.get(USUAL_GROUPS.index("zero-shot"))
    metrics[METRICS[-1]] = unseen.recall if unseen else float("nan")
    return [metrics[name] for name in METRICS]


def print_among_unseen(titles: NameSource, views: TextViews, true: sparse.csr_matrix, frequency: np.ndarray) -> None:
    """Say how well the nearest titles rank the labels without a train text, of texts that have one."""
    unseen = np.flatnonzero(frequency == 0)
    of_unseen = sparse.csr_matrix(true[:, unseen])
    rows = np.flatnonzero(np.diff(of_unseen.indptr))
    assert views.features is not None, "titles read them"
    cosines = unit_rows(views.features[rows]) @ titles.index.vectors()[unseen].astype(np.float32).T
    metrics = metric_sums(np.argsort(-cosines, 1)[:, : max(KS)], of_unseen[rows], KS).result()
    shown = ", ".join(f"{name} {metrics[name]:.2f}" for name in ("recall@1", "recall@5", "RP@5", "nDCG@5"))
    print(f"{of_unseen.nnz} true pairs of {len(rows)} texts with the {len(unseen)} labels without a train text")
    print(f"Nearest titles in the ranking of these labels alone: {shown}")


def report(found: dict[str, np.ndarray], chance: float) -> None:
    """Print the table and the closing line: [halvings, METRICS] of each way; `chance` is the recall of any labels."""
    table = Table("", *METRICS)
    for way, rows in found.items():
        spreads = [f" ± {spread:.2f}" if len(rows) > 1 else "" for spread in rows.std(0)]
        table.add_row(way, *(f"{mean:.2f}{spread}" for mean, spread in zip(rows.mean(0), spreads, strict=True)))
    Console(width=120).print(table)
    names, titles = (float(found[way][:, -1].mean()) for way in ("nearest names", SHOWN["names"]))
    print_closing_line("nearest titles", titles, "zero-shot recall@5, %", max(names, chance), goal=1.0)


if __name__ == "__main__":
    main()
