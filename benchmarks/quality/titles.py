"""What the titles of labels tell about labels without a train text, with the trained model of a run.

    python benchmarks/quality/titles.py RUN [--data FOLDER] [--halvings 1]

RUN is the output of a finished run whose model has evidence, FOLDER a data set of the same texts that was prepared with
a labels file; it need not be the run's own. Only validation texts are looked at. The titles are embedded as
`evidence.names` does, in place of the names that the run has, if any. The combination is learnt on a random half of the
validation texts and evaluated on the other, and the other way round. Prints, for the nearest titles alone, for the
cascade, for the mean of all parts and for what was learnt: P@1, P@5, nDCG@5 of all labels and recall@5 of the labels
without a train text. The last line is JSON: that recall of what was learnt, against the nearest titles.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import sparse

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.closing_line import print_closing_line

from cxml.data import RowSubset, ShardedDataset, data_url, held_out_rows, read_words, with_names
from cxml.evidence import (
    CANDIDATES,
    NameSource,
    Pairs,
    Proposals,
    TextViews,
    choose_combination,
    evidence_folder,
    pair_up,
    rank,
    read_evidence,
    unit_rows,
)
from cxml.evidence.nearest import VectorIndex
from cxml.metrics import USUAL_GROUPS, by_group, metric_sums, usual_groups
from cxml.prediction import Predictor
from cxml.training.weights import label_weights

KS = (1, 3, 5)
WAYS = ("cascade", "names", "mean", "learnt")
METRICS = ("P@1", "P@5", "nDCG@5", "zero-shot recall@5")


def main() -> None:
    """Parse, propose, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--data", default="", help="prepared data with titles; default: that of the run")
    parser.add_argument("--halvings", type=int, default=1, help="random halvings of the validation texts")
    parser.add_argument("--sources", nargs="*", default=["words", "neighbours"], help="of the run, beside titles")
    options = parser.parse_args()
    predictor = Predictor.from_checkpoint(options.run, evidence=False)
    data = options.data or data_url(predictor.parts.config)
    texts = ShardedDataset(data, "validation")
    pairs, sources = candidates(options.run, predictor, data, texts, options.sources)
    frequency = predictor.parts.frequency
    assert frequency is not None, "a run knows it"
    weights = label_weights(predictor.parts.config)
    found = {way: [] for way in WAYS}
    for seed in range(options.halvings):
        ranked = halved(pairs, texts.labels_csr(), weights, sources, seed)
        for way, labels in ranked.items():
            found[way].append(metrics_of(labels, texts.labels_csr(), frequency, weights))
    report({way: np.array(rows) for way, rows in found.items()}, texts.labels_csr(), frequency)


def candidates(
    run: str, predictor: Predictor, data: str, texts: ShardedDataset, wanted: list[str]
) -> tuple[Pairs, tuple[str, ...]]:
    """Candidates of all parts for the validation texts, and the names of the parts beside the cascade."""
    rows = np.arange(len(texts))
    tokens = texts.gather(rows)[0]
    alone = predictor.predict_tokens(tokens, min(CANDIDATES, len(predictor.names)))
    views = TextViews(texts.features(rows), predictor.embed_tokens(tokens))
    model = f"{run}/model"
    evidence = read_evidence(f"{model}/{evidence_folder(model)}", predictor.parts.tree)
    sources = [source for source in evidence.sources if source.name in wanted]
    assert views.features is not None, "they were computed above"
    titles = titles_of(predictor, data).tuned(views.features, texts.labels_csr())
    proposed = [source.propose(views, CANDIDATES) for source in (*sources, titles)]
    pairs = pair_up(Proposals(alone.labels, alone.scores), proposed, evidence.frequency)
    return pairs, (*(source.name for source in sources), titles.name)


def titles_of(predictor: Predictor, data: str) -> NameSource:
    """The titles of a data set as a source, as training makes it."""
    config = predictor.parts.config
    none = RowSubset(ShardedDataset(data, "train"), np.zeros(0, np.int64))
    named = with_names(none, data, config.train.name_texts or "(.+)", config.data.max_length)
    tokens, labels = named.gather(np.arange(len(named)))
    vectors = unit_rows(predictor.embed_tokens(tokens)).astype(np.float16)
    index = VectorIndex(vectors, np.array([0, len(vectors)]), vectors[:1].astype(np.float32))
    shown = read_words(data).titles[:3]
    print(f"{len(vectors):,} titles, such as {', '.join(map(repr, shown))}")
    return NameSource(index, labels.values, *NameSource.untuned)


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


def report(found: dict[str, np.ndarray], true: sparse.csr_matrix, frequency: np.ndarray) -> None:
    """Print the table and the closing line: [halvings, METRICS] of each way."""
    unseen = frequency[true.indices] == 0
    print(f"{unseen.sum()} true pairs of {len(np.unique(true.indices[unseen]))} labels without a train text")
    table = Table("", *METRICS)
    for way, rows in found.items():
        table.add_row(
            way, *(f"{mean:.2f} ± {spread:.2f}" for mean, spread in zip(rows.mean(0), rows.std(0), strict=True))
        )
    Console(width=120).print(table)
    nearest, learnt = (float(found[way][:, -1].mean()) for way in ("names", "learnt"))
    print_closing_line("titles, learnt", learnt, "zero-shot recall@5, %", nearest, goal=1.0)


if __name__ == "__main__":
    main()
