"""Build the evidence of a run's model: its sources, then their combination, which needs distributed prediction.

train split --begin_evidence--> folder `evidence`, with the words' linear model
            --complete_evidence--> features of the train texts, combination and, last, the manifest
"""

from __future__ import annotations

import dataclasses
import logging
import time

import numpy as np
import torch
import torch.distributed as dist
from scipy import sparse

from cxml import artefacts, storage
from cxml.checkpoint import model_url
from cxml.config import Config
from cxml.console import counted, set_up_logging
from cxml.data import (
    EvalLoader,
    LabelledRows,
    Ragged,
    RowSubset,
    ShardedDataset,
    TextRows,
    concatenate,
    data_url,
    read_vocabulary,
    validation_texts,
    window_rule,
    with_names,
)
from cxml.errors import ConfigError
from cxml.evidence import (
    CANDIDATES,
    CASCADE,
    EVIDENCE,
    FOLDERS,
    Combination,
    Evidence,
    LabelledVectors,
    NameSource,
    NeighbourSource,
    Proposals,
    TextViews,
    WordSource,
    choose_combination,
    commit_evidence,
    list_centres,
    nearest_lists,
    num_lists,
    read_evidence,
    read_uncombined,
    sample_size,
    source_url,
    train_word_model,
    unit_rows,
    write_labels,
    write_lists,
    write_part,
)
from cxml.model import CascadeXML
from cxml.model.ranking import probabilities
from cxml.parallel import Ranks, distributed
from cxml.progress import track
from cxml.training.epoch_selection import selection_run, train_texts_of
from cxml.training.evaluation import (
    SplitPrediction,
    gather_features,
    gather_labels,
    gather_shares,
    predict_share,
    predict_with,
    propensity_weights,
    saved_cascade,
)
from cxml.tree import LabelTree, tree_url

_log = logging.getLogger(__name__)

_KS = (1, 3, 5)
_WHOLE_NAME = "(.+)"
_MOST_TEXTS = 20_000  # validation texts used, by the number of sources; a few weights need no more


def evidence_url(config: Config) -> str:
    """Folder of the evidence of the run's model."""
    return storage.join(model_url(config), EVIDENCE)


def remove_evidence(config: Config) -> None:
    """Delete the evidence of the run's model, complete or not."""
    for name in FOLDERS:
        storage.remove_finished(storage.join(model_url(config), name), artefacts.MANIFEST)


def begin_evidence(config: Config) -> None:
    """Start a new folder with the word source, which one process trains on the cascade's training texts.

    Raises:
        DataError: the word source is requested, but the data set has no vocabulary.
    """
    remove_evidence(config)
    texts = train_texts_of(config)
    labels, num_labels = texts.labels_csr(), texts.manifest.num_labels
    frequency = np.bincount(labels.indices, minlength=num_labels).astype(np.int64)
    write_labels(evidence_url(config), frequency, np.zeros(num_labels, np.float32))
    if not config.evidence.words:
        return
    began = time.monotonic()
    vocabulary = read_vocabulary(data_url(config))
    counts = counted(len(texts), "text"), counted(len(vocabulary.terms), "word"), counted(num_labels, "label")
    _log.info("Words: %s, %s, %s", *counts)
    features = texts.features(np.arange(len(texts)))
    model = train_word_model(features, labels, LabelTree.load(tree_url(config)), seed=config.seed)
    WordSource(vocabulary, model).write(source_url(evidence_url(config), WordSource.name))
    _log.info("Words: trained in %.1f s, %.1f MB", time.monotonic() - began, model.num_bytes / 1e6)


def complete_evidence(config: Config, fingerprint: str) -> None:
    """Make the other sources, fit the combination on validation texts, and commit the folder.

    Runs in every process.

    Args:
        config: the run's config; the cascade and the results of `begin_evidence` exist.
        fingerprint: fingerprint of the evidence's inputs.

    Raises:
        ConfigError: validation texts are missing.
    """
    with distributed(config.train.threads_per_worker) as ranks:
        set_up_logging(is_main=ranks.is_first)
        tree = LabelTree.load(tree_url(config))
        model = saved_cascade(config, tree, ranks)
        if config.evidence.neighbours:  # without names used for training; no validation text votes for itself
            _store_vectors(config, NeighbourSource, train_texts_of(config), model, ranks)
        if config.evidence.names:
            _store_vectors(config, NameSource, _names_of(config), model, ranks)
        if config.train.keep == "refit":
            if ranks.is_first:
                _combine_as(selection_run(config), config, tree, fingerprint)
            return
        texts = validation_texts(data_url(config), config.train.validation_fraction)
        if texts is None:
            raise no_validation_texts(f"evidence.{config.evidence.sources[0]}", True)
        found = predict_share(
            predict_with(model), texts, tree, config.evaluate, ranks, num_labels=CANDIDATES,
            windows=window_rule(config, device=ranks.device),
            with_features=config.evidence.neighbours or config.evidence.names,
        )  # fmt: skip
        best = gather_labels(found.rows, found.nodes[-1], found.scores[-1], len(texts), ranks)
        features = gather_features(found, len(texts), ranks)
        if best is not None:
            combination = _choose(config, texts, tree, Proposals(*best), features)
            commit_evidence(evidence_url(config), combination, fingerprint)


def _combine_as(validated: Config, config: Config, tree: LabelTree, fingerprint: str) -> None:
    """Copy the combination of another run, and commit the folder.

    Args:
        validated: the run whose combination and sources were tuned on validation texts.
        config: a run that was also trained on these texts.
        tree: tree of both runs.
        fingerprint: fingerprint of the evidence's inputs.
    """
    of_validated = read_evidence(evidence_url(validated), tree)
    own = read_uncombined(evidence_url(config), tree, config.evidence.sources)
    for tuned, source in zip(of_validated.sources, own.sources, strict=True):
        if isinstance(source, NeighbourSource | NameSource):
            assert isinstance(tuned, type(source))
            url = source_url(evidence_url(config), source.name)
            write_lists(url, source.index.centres, tuned.parameters)
    commit_evidence(evidence_url(config), of_validated.combination, fingerprint)


def no_validation_texts(field: str, value: object) -> ConfigError:
    """The error for a run without validation texts, which `field` (of `evidence` or `train`) needs."""
    use, otherwise = "on which its weight beside the cascade is learnt", "false"
    if field.startswith("train."):
        use = "on which the best epoch is chosen; the test split is never used for it"
        otherwise = "last" if field == "train.keep" else "0"
    return ConfigError(
        field, value, f"needs validation texts, {use}",
        "Hold out a part of the train texts: train.validation_fraction: 0.05 (at least a few hundred texts). Or put a "
        f"file named validation next to train and test. Or set {field} to {otherwise}.",
    )  # fmt: skip


def run_evidence(config: Config, tree: LabelTree) -> Evidence | None:
    """The evidence of the run's model; None if the config requests none.

    Raises:
        DataError: it is missing or damaged.
    """
    return read_evidence(evidence_url(config), tree) if config.evidence.sources else None


def with_evidence(
    prediction: SplitPrediction, dataset: LabelledRows, evidence: Evidence | None, num_labels: int
) -> SplitPrediction:
    """Re-rank the `num_labels` labels of a prediction with the evidence; unchanged without evidence."""
    if evidence is None or evidence.combination.way == CASCADE:
        return prediction
    words = None if evidence.vocabulary is None else dataset.features(prediction.rows)
    texts = TextViews(words, prediction.features)
    labels, logits = evidence.combine(texts, prediction.nodes[-1], prediction.scores[-1], num_labels)
    scores = probabilities(torch.from_numpy(logits)).numpy()
    return dataclasses.replace(
        prediction, nodes=[*prediction.nodes[:-1], labels], scores=[*prediction.scores[:-1], scores]
    )


def _store_vectors(
    config: Config, source: type[NeighbourSource | NameSource], texts: TextRows, model: CascadeXML, ranks: Ranks
) -> None:
    """Write features and labels of texts for a source, each rank its share; a collective call."""
    began = time.monotonic()
    vectors, labels = _embed_share(config, model, texts, ranks)
    count = num_lists(len(texts))
    centres = _agree_on_centres(vectors, count, ranks)
    url = source_url(evidence_url(config), source.name)
    write_part(url, ranks.rank, LabelledVectors(vectors, nearest_lists(vectors, centres), labels))
    if ranks.is_first:
        write_lists(url, centres, source.untuned)
        shown = counted(len(texts), "vector"), vectors.shape[1], counted(count, "list"), time.monotonic() - began
        _log.info("%s: %s of width %d in %s, stored in %.1f s", source.name.capitalize(), *shown)
    dist.barrier()


def _names_of(config: Config) -> TextRows:
    """The label names as texts."""
    url = data_url(config)
    none = RowSubset(ShardedDataset(url, "train"), np.zeros(0, np.int64))
    return with_names(none, url, config.train.name_texts or _WHOLE_NAME, config.data.max_length)


@torch.inference_mode()
def _embed_share(config: Config, model: CascadeXML, texts: TextRows, ranks: Ranks) -> tuple[np.ndarray, Ragged]:
    """Unit features of this rank's texts, float16 [n, D], and their labels, in the same order."""
    loader = EvalLoader(
        texts, batch_size=config.evaluate.batch_size, rank=ranks.rank, world_size=ranks.world_size,
        pad_id=texts.manifest.tokenizer.pad_id, windows=window_rule(config, device=ranks.device),
    )  # fmt: skip
    vectors = np.zeros((loader.num_rows, model.encoder.feature_sizes[-1]), np.float16)
    labels, done = [], 0
    for indices, batch in track(loader, len(loader), "embed") if ranks.is_first else loader:
        count = len(indices)
        there = batch.to(ranks.device)
        last = model.encoder(there.input_ids, there.attention_mask, there.windows)[-1]
        vectors[done : done + count] = unit_rows(last[:count].float().cpu().numpy())
        offsets = batch.label_offsets[: count + 1].numpy()
        labels.append(Ragged(batch.label_values[: offsets[-1]].int().numpy(), offsets.astype(np.int64)))
        done += count
    return vectors, concatenate(labels)


def _agree_on_centres(vectors: np.ndarray, count: int, ranks: Ranks) -> np.ndarray:
    """Centres of `count` lists from a sample of all ranks' vectors, float32 [C, D]; a collective call."""
    wanted = -(-sample_size(count) // ranks.world_size)
    places = np.linspace(0, len(vectors), min(wanted, len(vectors)), endpoint=False).astype(np.int64)
    samples = gather_shares((vectors[places],), ranks)
    agreed = [None if samples is None else list_centres(np.concatenate([own for (own,) in samples]), count)]
    dist.broadcast_object_list(agreed)
    centres = agreed[0]
    assert centres is not None, "the first rank has sent them"
    return centres


def _choose(
    config: Config, texts: LabelledRows, tree: LabelTree, cascade: Proposals, features: np.ndarray | None
) -> Combination:
    """Choose the combination of all parts from the cascade's proposals for the validation texts and their features."""
    names = config.evidence.sources
    rows = np.arange(min(len(texts), _MOST_TEXTS // len(names)))
    words = texts.features(rows) if config.evidence.words else None
    views, true = TextViews(words, None if features is None else features[rows]), texts.labels_csr()[rows]
    evidence = _tuned(config, read_uncombined(evidence_url(config), tree, names), views, true)
    pairs = evidence.pairs(views, cascade.labels[rows], cascade.scores[rows], CANDIDATES)
    chosen = choose_combination(pairs, true, propensity_weights(config), _KS, sources=names)
    for way, metrics in chosen.metrics.items():
        shown = "  ".join(f"{name} {metrics[name]:.2f}" for name in ("P@1", "P@3", "P@5", "PSP@5", "nDCG@5"))
        _log.info("Evidence, %s: %-10s %s", counted(len(rows), "validation text"), way, shown)
    of_ties = "; of nearly equally probable labels, the rarer is first" if chosen.rarity else ""
    _log.info("Evidence: labels are ranked by %s%s", _method_text(chosen.way), of_ties)
    return chosen


def _tuned(config: Config, evidence: Evidence, texts: TextViews, true: sparse.csr_matrix) -> Evidence:
    """Tune the sources on these texts, and write their parameters."""
    sources = list(evidence.sources)
    for place, source in enumerate(sources):
        if isinstance(source, NeighbourSource | NameSource):
            assert texts.features is not None, "it reads them"
            chosen = source.tuned(texts.features, true)
            write_lists(source_url(evidence_url(config), source.name), chosen.index.centres, chosen.parameters)
            shown = ", ".join(f"{value:.3g}" for value in chosen.parameters)
            _log.info("%s: chosen on validation texts: %s", source.name.capitalize(), shown)
            sources[place] = chosen
    return dataclasses.replace(evidence, sources=tuple(sources))


def _method_text(way: str) -> str:
    usual = {
        "learnt": "the learnt combination of all parts",
        "mean": "the mean of all parts, the best on validation texts",
    }
    return usual.get(way, f"the {way} alone, the best on validation texts")
