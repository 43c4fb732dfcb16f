"""The words of a run's model: their linear model in one process, then the combination, for which all predict.

train split --train_words--> folder words without a manifest --combine_words--> combination and manifest
"""

from __future__ import annotations

import dataclasses
import logging
import time

import numpy as np
import torch

from cxml import storage
from cxml.checkpoint import model_url
from cxml.config import Config
from cxml.console import set_up_logging
from cxml.data import (
    JoinedRows,
    LabelledRows,
    RowSubset,
    ShardedDataset,
    all_labelled_texts,
    data_url,
    read_vocabulary,
    train_texts,
    validation_texts,
    window_rule,
)
from cxml.errors import ConfigError
from cxml.evidence import (
    CANDIDATES,
    WORDS,
    Combination,
    WordEvidence,
    choose_combination,
    commit_words,
    read_evidence,
    read_uncombined,
    train_word_model,
    write_words,
)
from cxml.model.ranking import probabilities
from cxml.parallel import distributed
from cxml.training.evaluation import SplitPrediction, gather_labels, predict_by_model, predict_share
from cxml.training.weights import label_weights
from cxml.tree import LabelTree, tree_url

_log = logging.getLogger(__name__)

_KS = (1, 3, 5)
_MOST_TEXTS = 20_000  # validation texts to learn from: a few weights need no more, and each text has 150 candidates


def words_url(config: Config) -> str:
    """Folder of the words of the run's model."""
    return storage.join(model_url(config), WORDS)


def train_words(config: Config) -> None:
    """Train the linear model of the words on the texts that the cascade was trained on, and write it.

    Raises:
        DataError: the data set does not keep its vocabulary.
    """
    began = time.monotonic()
    vocabulary = read_vocabulary(data_url(config))
    texts = train_texts_of(config)
    labels = texts.labels_csr()
    num_labels = texts.manifest.num_labels
    _log.info("Words: %d texts, %d words, %d labels", len(texts), len(vocabulary.terms), num_labels)
    features = texts.features(np.arange(len(texts)))
    model = train_word_model(features, labels, LabelTree.load(tree_url(config)), seed=config.seed)
    frequency = np.bincount(labels.indices, minlength=num_labels).astype(np.int64)
    write_words(words_url(config), vocabulary, model, frequency, np.zeros(num_labels, np.float32))
    _log.info("Words: trained in %.1f s, %.1f MB", time.monotonic() - began, model.num_bytes / 1e6)


def train_texts_of(config: Config) -> ShardedDataset | RowSubset | JoinedRows:
    """The texts that a run's model is trained on; after a selection all that are not for the test."""
    if config.train.keep == "refit":
        return all_labelled_texts(data_url(config))
    return train_texts(data_url(config), config.train.validation_fraction)


def combine_as(judged: Config, config: Config, fingerprint: str) -> None:
    """Combine words and cascade as another run's are, and make the folder whole.

    Args:
        judged: the run, whose combination was learnt on validation texts.
        config: one that was trained on these texts too.
        fingerprint: of what its words are made from.
    """
    evidence = read_evidence(words_url(judged), LabelTree.load(tree_url(judged)))
    commit_words(words_url(config), evidence.combination, fingerprint)


def combine_words(config: Config, fingerprint: str) -> None:
    """Learn on validation texts how words and cascade are combined, and make the folder whole. Runs in every process.

    Args:
        config: of the run, whose cascade and word model are there.
        fingerprint: of what the words are made from.

    Raises:
        ConfigError: there are no validation texts.
    """
    with distributed(config.train.threads_per_worker) as ranks:
        set_up_logging(is_speaker=ranks.is_first)
        texts = validation_texts(data_url(config), config.train.validation_fraction)
        if texts is None:
            raise no_validation_texts("evidence.words", True)
        tree = LabelTree.load(tree_url(config))
        predict = predict_by_model(config, tree, ranks)
        windows = window_rule(config, device=ranks.device)
        found = predict_share(predict, texts, tree, config.evaluate, ranks, num_labels=CANDIDATES, windows=windows)
        best = gather_labels(found.rows, found.nodes[-1], found.scores[-1], len(texts), ranks)
        if best is not None:
            commit_words(words_url(config), _choose(config, texts, tree, *best), fingerprint)


def no_validation_texts(field: str, value: object) -> ConfigError:
    """The error for a run whose `field`, `evidence.words` or `train.keep`, has nothing to be decided on."""
    uses = {
        "evidence.words": "on which it learns how much words count beside the cascade",
        "train.keep": "on which the best epoch is chosen; the test split never serves for it",
    }
    otherwise = {"evidence.words": "false", "train.keep": "last"}
    return ConfigError(
        field, value, f"needs validation texts, {uses[field]}",
        "Hold out a part of the train texts: train.validation_fraction: 0.05 (at least some hundred texts), or set "
        f"{field} to {otherwise[field]}.",
    )  # fmt: skip


def run_evidence(config: Config, tree: LabelTree) -> WordEvidence | None:
    """The words of the run's model; None where the config does not ask for them.

    Raises:
        DataError: they are missing or damaged.
    """
    return read_evidence(words_url(config), tree) if config.evidence.words else None


def with_words(
    prediction: SplitPrediction, dataset: LabelledRows, evidence: WordEvidence | None, num_labels: int
) -> SplitPrediction:
    """A prediction whose `num_labels` labels are ranked by words too; without evidence, or use for it, as it is."""
    if evidence is None or evidence.combination.way == "cascade":
        return prediction
    features = dataset.features(prediction.rows)
    labels, logits = evidence.combine(features, prediction.nodes[-1], prediction.scores[-1], num_labels)
    scores = probabilities(torch.from_numpy(logits)).numpy()
    return dataclasses.replace(
        prediction, nodes=[*prediction.nodes[:-1], labels], scores=[*prediction.scores[:-1], scores]
    )


def _choose(
    config: Config, texts: LabelledRows, tree: LabelTree, labels: np.ndarray, scores: np.ndarray
) -> Combination:
    evidence = read_uncombined(words_url(config), tree)
    rows = np.arange(min(len(texts), _MOST_TEXTS))
    pairs = evidence.pairs(texts.features(rows), labels[rows], scores[rows], CANDIDATES)
    chosen = choose_combination(pairs, texts.labels_csr()[rows], label_weights(config), _KS)
    for way, metrics in chosen.metrics.items():
        shown = "  ".join(f"{name} {metrics[name]:.2f}" for name in ("P@1", "P@3", "P@5", "PSP@5", "nDCG@5"))
        _log.info("Words, %d validation texts: %-8s %s", len(rows), way, shown)
    _log.info("Words: the model ranks labels by %s", _NAMES[chosen.way])
    return chosen


_NAMES = {
    "learnt": "what was learnt of both",
    "mean": "the mean of both, which was better than what was learnt",
    "cascade": "the cascade alone, which was better than with words",
    "words": "words alone, which were better than with the cascade",
}
