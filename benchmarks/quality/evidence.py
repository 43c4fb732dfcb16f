"""Measures what each source of evidence adds to the cascade, on held-out training texts, over several seeds.

    python benchmarks/quality/evidence.py --config configs/wordnet.yaml --data.source.path FOLDER [--share 0.2]
    python benchmarks/quality/evidence.py --quick

A share of the training texts is used, and a fifth of it is held out; the test texts are not used. Some of the other
texts are validation texts, on which combinations are learnt. Options of `python -m cxml.train` that follow hold for
every run. Finished runs are not repeated. The benchmark prints the metrics of the cascade, of each source, of all parts
combined by their mean and by the learnt combination, and of the cascade with each single source, learnt on the same
validation texts. It also prints what each source costs in prediction time and in memory. The last line is JSON: P@1 of
the learnt combination of all parts against that of the cascade.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from quality.held_out import cells, parsed, parser_of
from support.closing_line import print_closing_line
from support.configs import config_of

from cxml.config import Config
from cxml.data import LabelledRows, ShardedDataset, data_url, validation_texts
from cxml.evidence import (
    CANDIDATES,
    CASCADE,
    Combination,
    Evidence,
    Pairs,
    Proposals,
    TextViews,
    candidate_pairs,
    choose_combination,
    rank,
    read_evidence,
    scoring_methods,
)
from cxml.metrics import USUAL_GROUPS, by_group, metric_sums, usual_groups
from cxml.pipeline import run
from cxml.prediction import Predictor
from cxml.training import evidence_url
from cxml.training.evaluation import propensity_weights

KS = (1, 3, 5)
ZERO_SHOT = f"zero-shot recall@{max(KS)}"
METRICS = (*(f"{name}@{k}" for name in ("P", "PSP") for k in KS), ZERO_SHOT)
ASKED = ["--evidence.words", "--evidence.neighbours", "--evidence.names", "--train.validation-fraction", "0.15"]


def main() -> None:
    """Parse, train, print."""
    options, words = parsed(parser_of(__doc__, "evidence"))
    figures: dict[str, list[list[float]]] = {}
    costs: dict[str, list[list[float]]] = {}
    for seed in range(options.seeds):
        places = ["--output", str(options.folder / f"seed-{seed}")]
        config = config_of("evidence", [*ASKED, *words, "--seed", str(seed), *places])
        run(config)
        cascade = Predictor.from_checkpoint(config.output, evidence=False)
        evidence = read_evidence(evidence_url(config), cascade.parts.tree)
        found, milliseconds = measure(config, cascade, evidence)
        for way, metrics in found.items():
            figures.setdefault(way, []).append(metrics)
        costs.setdefault("cascade", []).append([milliseconds["cascade"], float("nan")])
        for source in evidence.sources:
            costs.setdefault(source.name, []).append([milliseconds[source.name], source.num_bytes / 1e6])
    report(*({name: np.array(rows) for name, rows in each.items()} for each in (figures, costs)))


def measure(config: Config, cascade: Predictor, evidence: Evidence) -> tuple[dict[str, list[float]], dict[str, float]]:
    """METRICS of each combination on the held-out texts, and milliseconds per text of each part."""
    test = ShardedDataset(data_url(config), "test")
    validation = validation_texts(data_url(config), config.train.validation_fraction)
    assert validation is not None, "the runs hold some out"
    milliseconds: dict[str, float] = {}
    learnt_from, proposed = (propose(each, cascade, evidence, milliseconds) for each in (validation, test))
    truth, weights, frequency = test.labels_csr(), propensity_weights(config), evidence.frequency

    def metrics_of(combination: Combination, way: str, pairs: Pairs) -> list[float]:
        labels, _ = rank(pairs, combination.score_by(way, pairs), len(test), max(KS))
        metrics = metric_sums(labels, truth, KS, weights).result()
        groups = by_group(labels, truth, frequency, weights, max(KS), group=usual_groups(frequency))
        unseen = groups.get(USUAL_GROUPS.index("zero-shot"))
        metrics[ZERO_SHOT] = unseen.recall if unseen else float("nan")
        return [metrics[name] for name in METRICS]

    pairs = candidate_pairs(proposed[CASCADE], [proposed[name] for name in evidence.names], frequency)
    found = {way: metrics_of(evidence.combination, way, pairs) for way in scoring_methods(evidence.names)}
    for name in evidence.names if len(evidence.names) > 1 else ():
        own, of_validation = (
            candidate_pairs(each[CASCADE], [each[name]], evidence.frequency) for each in (proposed, learnt_from)
        )
        combination = choose_combination(of_validation, validation.labels_csr(), weights, KS, sources=(name,))
        found[f"cascade and {name}, learnt"] = metrics_of(combination, "learnt", own)
    return found, milliseconds


def propose(
    texts: LabelledRows, cascade: Predictor, evidence: Evidence, milliseconds: dict[str, float]
) -> dict[str, Proposals]:
    """Proposals of each part; its milliseconds per text are added to `milliseconds`."""
    rows = np.arange(len(texts))
    tokens, k = texts.gather(rows)[0], min(CANDIDATES, len(cascade.names))
    began = time.perf_counter()
    alone = cascade.predict_tokens(tokens, k)
    milliseconds[CASCADE] = 1000 * (time.perf_counter() - began) / len(rows)
    views = TextViews(texts.features(rows), cascade.embed_tokens(tokens))
    found = {CASCADE: Proposals(alone.labels, alone.scores)}
    for source in evidence.sources:
        source.propose(views.take(slice(1)), k)  # loads the compiled code
        began = time.perf_counter()
        found[source.name] = source.propose(views, k)
        milliseconds[source.name] = 1000 * (time.perf_counter() - began) / len(rows)
    return found


def report(figures: dict[str, np.ndarray], costs: dict[str, np.ndarray]) -> None:
    """Print the tables and the closing line, from [seeds, METRICS] of each combination and [seeds, 2] of each part."""
    table = Table("", *METRICS, *(f"{name} - cascade's" for name in METRICS))
    for way, own in figures.items():
        table.add_row(way, *cells(own, signed=False), *cells(own - figures[CASCADE], signed=True))
    Console(width=190).print(table)
    table = Table("", "ms per text", "MB")
    for name, own in costs.items():
        table.add_row(name, *cells(own, signed=False))
    Console(width=140).print(table)
    cascade, learnt = (float(figures[way][:, 0].mean()) for way in (CASCADE, "learnt"))
    print_closing_line("evidence, learnt", learnt, "P@1, %", cascade, goal=1.0)


if __name__ == "__main__":
    main()
