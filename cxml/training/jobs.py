"""What each process of a job does, from its config to its result: a table of contents of training and evaluation."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from scipy import sparse

from cxml import storage
from cxml.accelerators import use_deterministic_algorithms
from cxml.artefacts import MANIFEST
from cxml.checkpoint import (
    Progress,
    TrainingState,
    gathered_clusters,
    load_start,
    model_url,
    offered_checkpoints,
    require_best,
    resume,
    return_to_best,
    save_model,
)
from cxml.config import Config
from cxml.console import set_up_logging
from cxml.data import (
    LabelledRows,
    ShardedDataset,
    TextRows,
    TrainLoader,
    cut,
    data_url,
    few_lengths,
    read_labels,
    validation_texts,
    window_rule,
    with_names,
)
from cxml.errors import DataError
from cxml.evidence import CANDIDATES, Evidence
from cxml.metrics import by_frequency
from cxml.model import build_model
from cxml.optim import Schedule
from cxml.parallel import (
    Exchange,
    Ranks,
    ShardedLevel,
    build_engine,
    distributed,
    gathered_state_dict,
    set_patience,
    sharded_levels,
)
from cxml.prediction import (
    Decisions,
    Predictions,
    Predictor,
    RowFormat,
    choose_decisions,
    model_identity,
    read_run_decisions,
    write_run_decisions,
    write_scores,
)
from cxml.training.budget_pacer import BudgetPacer, TimeLimit
from cxml.training.centroids import start_from_centroids
from cxml.training.checkpoints import CheckpointCallback
from cxml.training.decisions import Ranked, decision_report, num_candidates
from cxml.training.evaluation import (
    Predict,
    SplitPrediction,
    gather_labels,
    predict_by_model,
    predict_share,
    score_levels,
)
from cxml.training.evidence import run_evidence, with_evidence
from cxml.training.flops import utilisation
from cxml.training.interruption import HangGuard, StopSignal
from cxml.training.loop import Callback, Pacer, fit
from cxml.training.memory import ReturnMemory
from cxml.training.pace import Pace
from cxml.training.precision import settle_precision
from cxml.training.selection import judged_run, train_texts_of, write_selection
from cxml.training.tracked import tracking
from cxml.training.trackers import ConsoleTracker, JsonlTracker, TensorBoardTracker
from cxml.training.validation import EvaluateDuringTraining
from cxml.training.weights import label_weights
from cxml.tree import LabelTree, tree_url

_log = logging.getLogger(__name__)

PredictTexts = Callable[[LabelledRows], tuple[SplitPrediction, SplitPrediction]]
"""What predicts this rank's share of texts: as the cascade does, and as the model does with its evidence."""

_MOST_LENGTHS = 8  # the products of so many fit what `cxml.accelerators.bound_caches` lets oneDNN keep


def train(
    config: Config,
    fingerprints: Mapping[str, str],
    choice: str = "auto",
    end: int | TimeLimit | None = None,
) -> bool:
    """Train on the prepared data and tree of `config` and save the model. Runs in every process of the job.

    Args:
        config: the run.
        fingerprints: of what the model is made from, by `train.precision`; that of its own is saved with it.
        choice: the checkpoint to go on from, see `cxml.checkpoint.offered_checkpoints`.
        end: passes over the texts after which training ends, on the learning rates of `train.epochs`, or the time that
            it may take; None: all epochs, in any time.

    Returns:
        Whether it was finished; if not, a signal stopped it and a checkpoint holds its state.
    """
    with distributed(config.train.threads_per_worker, config.train.hang_minutes) as ranks:
        set_up_logging(is_speaker=ranks.is_first)
        return train_in_group(config, fingerprints, ranks, choice, end)


def train_in_group(
    config: Config,
    fingerprints: Mapping[str, str],
    ranks: Ranks,
    choice: str = "auto",
    end: int | TimeLimit | None = None,
) -> bool:
    """`train`, for processes that are already one group."""
    began = time.monotonic()
    offered = offered_checkpoints(config, ranks, choice)
    state, schedule = set_up(config, ranks, offered)
    config = state.config
    start = resume(state, offered) or Progress()
    fingerprint = fingerprints[config.train.precision]
    spent = start.used_seconds + time.monotonic() - began
    pacer = _pacer(state, start, dataclasses.replace(end, used=spent) if isinstance(end, TimeLimit) else end)
    with tracking(config, start, is_first=ranks.is_first) as tracked:
        if not _fit(state, schedule, start, pacer, tracked=tracked, fingerprint=fingerprint):
            tracked.is_stopped = True
            return False
        weights = gathered_state_dict(state.engine, ranks) | gathered_clusters(state.model, ranks)
        save_model(
            model_url(config), state.model, weights, ranks,
            config=config, fingerprint=fingerprint, tree=state.tree_digest,
        )  # fmt: skip
    if ranks.is_first:
        _log.info("Model saved to %s", model_url(config))
    return True


def set_up(config: Config, ranks: Ranks, offered: Sequence[str] = ()) -> tuple[TrainingState, Schedule]:
    """Data, tree, model, engine and schedule of a run; a collective call.

    Args:
        config: the run; that of the state has a `train.precision` other than `auto`.
        ranks: this process's place.
        offered: the checkpoints that it may go on from; without any the weights are those that a new run begins with.
    """
    is_new, config = not offered, settle_precision(config, ranks, offered)
    if config.train.deterministic:
        use_deterministic_algorithms()
    return set_up_on(
        _with_names(train_texts_of(config), config), LabelTree.load(tree_url(config)), config, ranks, is_new=is_new
    )


def set_up_on(
    dataset: TextRows, tree: LabelTree, config: Config, ranks: Ranks, *, is_new: bool = True
) -> tuple[TrainingState, Schedule]:
    """`set_up` on texts and a tree that need not be those that `config` names."""
    windows = window_rule(config, device=ranks.device)
    loader = TrainLoader(
        dataset, batch_size=config.train.batch_size, seed=config.seed, rank=ranks.rank, world_size=ranks.world_size,
        accumulation=config.train.accumulation, pad_id=dataset.manifest.tokenizer.pad_id,
        bucket_by_length=config.train.bucket_by_length, batch_tokens=config.train.batch_tokens, device=ranks.device,
        pad_to=_lengths(config, ranks), windows=windows,
    )  # fmt: skip
    torch.manual_seed(config.seed)  # every rank starts from the same weights
    is_sharded = config.head.implementation == "rows"
    make_levels = sharded_levels(tree, Exchange(), config) if is_sharded else None
    model = build_model(config.model, tree, make_levels=make_levels)
    if config.model.start_from and is_new:
        load_start(config.model, model, tree)
    if config.model.classifier_start == "centroids" and is_new:
        start_from_centroids(model, dataset, ranks, config.evaluate.batch_size, windows)
    if config.train.compile:
        model.encoder.compile_layers(ranks.device, recompute=config.train.activation_checkpointing)
    elif config.train.activation_checkpointing:
        model.encoder.recompute_activations()
    engine = build_engine(model, config.train, config.optim, ranks)
    set_patience(config.train.hang_minutes)  # of the groups that were made on the way, too
    torch.manual_seed(config.seed + ranks.rank)  # and draws dropout of its own
    schedule = Schedule(
        cast(torch.optim.Optimizer, engine.optimizer),
        steps_per_epoch=loader.steps_per_epoch,
        epochs=_planned_epochs(config, loader),
        config=config.optim,
        rows=model.label_head.schedule if isinstance(model.label_head, ShardedLevel) else None,
        rows_lr=config.head.learning_rate,
    )
    return TrainingState(config, engine, tree, loader, ranks), schedule


def _planned_epochs(config: Config, loader: TrainLoader) -> float:
    """Epochs that the schedule is made for, with the fraction of the last one."""
    epochs, steps = config.train.epochs, config.train.steps
    return min(steps / loader.steps_per_epoch, epochs) if steps else epochs


def _lengths(config: Config, ranks: Ranks) -> tuple[int, ...]:
    """The lengths to pad batches to where code is made for each size of a batch; empty: to the longest text of each."""
    train = config.train
    if train.compile:
        return few_lengths(config.tokens_at_once)
    is_whole = config.tokens_at_once == config.data.max_length
    has_like_batches = is_whole and not train.bucket_by_length and not train.batch_tokens  # else few have the same size
    if train.precision == "bf16" and ranks.device.type == "cpu" and has_like_batches:
        return few_lengths(config.data.max_length, _MOST_LENGTHS)
    return ()


def _with_names(texts: TextRows, config: Config) -> TextRows:
    if not config.train.name_texts:
        return texts
    return with_names(texts, data_url(config), config.train.name_texts, config.data.max_length)


def _pacer(state: TrainingState, start: Progress, end: int | TimeLimit | None) -> Pacer:
    """How long the run is: as many epochs as given, or by its config, or as fit into a time."""
    train, steps_per_epoch = state.config.train, state.loader.steps_per_epoch
    most = (end if isinstance(end, int) else train.epochs) * steps_per_epoch
    pace = Pace.from_state(start.pace, min(train.steps or most, most))
    if isinstance(end, TimeLimit):
        return BudgetPacer(pace, state.ranks, end, steps_per_epoch=steps_per_epoch)
    return Pacer(pace)


def _fit(
    state: TrainingState, schedule: Schedule, start: Progress, pacer: Pacer, *, tracked: Callback, fingerprint: str
) -> bool:
    """Train to the end, or until a signal asks to stop; whether the end was reached: the weights are the model's."""
    config, ranks = state.config, state.ranks
    figures: dict[str, float] = {}
    guard = HangGuard(config.train.hang_minutes)
    records = _records(state, start) if ranks.is_first else None
    trackers = _trackers(state, records, tracked)
    callbacks = [guard, pacer, *trackers, *([ReturnMemory()] if ranks.device.type == "cpu" else [])]
    evaluation = None
    if config.train.evaluation_interval and config.train.keep != "refit":  # which leaves no text to validate on
        evaluation = EvaluateDuringTraining(state, start, pacer, trackers, figures)
        callbacks.append(evaluation)
    selecting = evaluation if config.train.keep == "best" else None
    if start.selection:
        require_best(state, int(start.selection["step"]))
    with contextlib.ExitStack() as stack:
        stack.callback(guard.close)
        if config.checkpoint.is_on or selecting is not None:
            stop = stack.enter_context(StopSignal())
            checkpoints = CheckpointCallback(
                state, start, stop, guard, figures, others=callbacks.copy(), records=records, evaluation=selecting
            )
            callbacks.append(checkpoints)
            stack.callback(checkpoints.close)
        is_finished = fit(
            state.engine, state.loader, schedule, ranks,
            pacer=pacer, record_every=config.log.every_steps, callbacks=callbacks, start=start,
            utilisation=utilisation(state.model, config, ranks.device),
        )  # fmt: skip
    if is_finished and selecting is not None:
        _take_best(state, selecting, fingerprint)
    return is_finished


def _take_best(state: TrainingState, evaluation: EvaluateDuringTraining, fingerprint: str) -> None:
    """Go back to the weights of the best epoch, and keep which one that was; a collective call."""
    found = evaluation.selection
    if not evaluation.has_best:
        return_to_best(state, found.step)
    if state.ranks.is_first:
        write_selection(
            state.config, found, last_epoch=evaluation.last_epoch, num_texts=evaluation.num_texts,
            fingerprint=fingerprint,
        )  # fmt: skip
        _log.info("The model takes the weights after epoch %d of %d", found.epoch, evaluation.last_epoch)


def evaluate_run(config: Config) -> dict[str, Any]:
    """Evaluate the saved model of `config` on the test split. Runs in every process of the job.

    The first rank writes the scores of the best labels to `predictions.npz` in the run's output.

    Where there are validation texts, it also chooses thresholds on them and writes `decisions.json`: with the model, or
    with the one that chose its epochs where the final fit has seen the validation texts.

    Returns:
        `level_sizes`; `levels`: metrics per level in percent, the labels last; on the first rank `examples`: texts with
        their true and best labels; `by_frequency`: groups of labels, rare to frequent; and `decision_report`. Where the
        model has evidence, `evidence`: how it is combined, and metrics of the cascade alone.
    """
    with distributed(config.train.threads_per_worker) as ranks:
        set_up_logging(is_speaker=ranks.is_first)
        dataset = ShardedDataset(data_url(config), "test")
        dataset.start_verification()  # while the model loads
        tree = LabelTree.load(tree_url(config))
        evidence = run_evidence(config, tree)
        predict_texts = _predict_texts_by(config, tree, evidence, ranks)
        of_cascade, prediction = predict_texts(dataset)
        of_levels = {"config": config.evaluate, "ranks": ranks}
        weights = label_weights(config)
        report = {
            "level_sizes": list(tree.level_sizes),
            "levels": score_levels(prediction, dataset, tree, weights, **of_levels),
        }
        if evidence is not None:
            alone = score_levels(of_cascade, dataset, tree, weights, **of_levels)[-1]
            report["evidence"] = _evidence_report(evidence, alone)
        best = gather_labels(prediction.rows, prediction.nodes[-1], prediction.scores[-1], len(dataset), ranks)
        decisions = _decide(config, tree, predict_texts, ranks)
        report["examples"] = _examples(config, best)
        if best is not None:
            k = max(config.evaluate.top_k)
            write_scores(predictions_url(config), best[0][:, :k], best[1][:, :k], dataset.manifest.num_labels)
            true = dataset.labels_csr()
            report["by_frequency"] = frequency_groups(config, true, best[0])
            _, frequency = read_labels(data_url(config))
            report |= decision_report(Ranked(*best, true), decisions, frequency, weights, config.evaluate.top_k)
        return report


def _decide(config: Config, tree: LabelTree, predict_texts: PredictTexts, ranks: Ranks) -> Decisions:
    """Thresholds and calibration of the run's model, by the model that has not seen the validation texts.

    Where that is gone, once it has served for the final fit, those that were chosen with it stay.
    """
    judged = judged_run(config)
    if judged is config:
        return _choose_decisions(config, predict_texts, ranks)
    if storage.exists(storage.join(model_url(judged), MANIFEST)):
        return _choose_decisions(config, _predict_texts_by(judged, tree, run_evidence(judged, tree), ranks), ranks)
    if ranks.is_first:
        _log.warning("%s is gone: thresholds and calibration stay as they were chosen there", judged.output)
    return read_run_decisions(config.output, model_identity(model_url(config)), tree.num_labels)


def _predict_texts_by(config: Config, tree: LabelTree, evidence: Evidence | None, ranks: Ranks) -> PredictTexts:
    """`_predict_texts` by the saved model of `config`."""
    predict = predict_by_model(config, tree, ranks)
    return lambda texts: _predict_texts(predict, texts, tree, evidence, config=config, ranks=ranks)


def _predict_texts(
    predict: Predict, texts: LabelledRows, tree: LabelTree, evidence: Evidence | None, *, config: Config,
    ranks: Ranks,
) -> tuple[SplitPrediction, SplitPrediction]:  # fmt: skip
    """This rank's share of some texts as the cascade predicts it, and as the model does, with its evidence."""
    wanted = num_candidates(len(texts))
    candidates = wanted if evidence is None else max(wanted, CANDIDATES)
    with_features = evidence is not None and evidence.width("features") is not None
    found = predict_share(
        predict, texts, tree, config.evaluate, ranks,
        num_labels=candidates, windows=window_rule(config, device=ranks.device), with_features=with_features,
    )  # fmt: skip
    return found, with_evidence(found, texts, evidence, min(max(wanted, *config.evaluate.top_k), tree.num_labels))


def _evidence_report(evidence: Evidence, cascade: Mapping[str, float]) -> dict[str, Any]:
    """The part of a report about evidence: metrics of the cascade alone, and of each way on validation texts."""
    chosen = evidence.combination
    return {
        "way": chosen.way, "texts": chosen.num_texts, "validation": chosen.metrics, "cascade": cascade,
        "bytes": {source.name: source.num_bytes for source in evidence.sources},
    }  # fmt: skip


def _choose_decisions(config: Config, predict_texts: PredictTexts, ranks: Ranks) -> Decisions:
    """Thresholds and calibration, chosen on the validation texts if there are any, and kept; on the first rank."""
    texts = validation_texts(data_url(config), config.train.validation_fraction)
    if texts is None:
        return Decisions()
    _, found = predict_texts(texts)
    best = gather_labels(found.rows, found.nodes[-1], found.scores[-1], len(texts), ranks)
    if best is None:
        return Decisions()
    decisions = choose_decisions(*best, texts.labels_csr(), config.evaluate.wanted_precision)
    write_run_decisions(config.output, model_identity(model_url(config)), decisions)
    return decisions


def frequency_groups(config: Config, true: sparse.csr_matrix, predicted: np.ndarray) -> dict[str, Any]:
    """Metrics of labels, int [N, K], against the true ones, [N, L], by the labels' frequency.

    Returns:
        The cut-off `k`, and `groups` with the fields of `FrequencyGroup`.
    """
    _, frequency = read_labels(data_url(config))
    k = max(config.evaluate.top_k)
    groups = by_frequency(predicted, true, frequency, label_weights(config), k)
    return {"k": k, "groups": [dataclasses.asdict(group) for group in groups]}


def predictions_url(config: Config) -> str:
    """Where evaluation leaves the scores of each test text's best labels."""
    return storage.join(config.output, "predictions.npz")


@dataclasses.dataclass(frozen=True)
class Variant:
    """How a model predicts, by options of `Predictor.from_checkpoint`."""

    rows: RowFormat | None = None
    logit_adjustment: float = 0.0
    propensity_ranking: float = 0.0


def predict_test(config: Config, url: str, scores_url: str, variant: Variant) -> None:
    """Write the scores of each test text's best labels by some model. Runs in every process of the job.

    Args:
        config: of the run whose test split and processes are used.
        url: what `Predictor.from_checkpoint` takes, over the same labels.
        scores_url: file to write, see `cxml.prediction.write_scores`.
        variant: how it predicts.

    Raises:
        DataError: the model was trained on other labels.
    """
    with distributed(config.train.threads_per_worker) as ranks:
        set_up_logging(is_speaker=ranks.is_first)
        predictor = Predictor.from_checkpoint(
            url, **dataclasses.asdict(variant), batch_size=config.evaluate.batch_size, device=ranks.device,
            precision=config.evaluate.precision,
            exchange=Exchange(),
        )  # fmt: skip
        names, _ = read_labels(data_url(config))
        if names != list(predictor.names):
            raise DataError(url, "was trained on other labels", "Compare models of one label set.")
        dataset = ShardedDataset(data_url(config), "test")
        start, stop = cut(len(dataset), ranks.world_size)[ranks.rank : ranks.rank + 2]
        share = np.arange(start, stop)
        found = _predict_rows(predictor, dataset, share, max(config.evaluate.top_k), url)
        best = gather_labels(share, found.labels, found.scores, len(dataset), ranks)
        if best is not None:
            write_scores(scores_url, *best, len(names))


def _predict_rows(predictor: Predictor, dataset: ShardedDataset, rows: np.ndarray, k: int, url: str) -> Predictions:
    """Predict rows of a data set, from their texts where it has them: the model may have another tokenizer."""
    if dataset.has_texts:
        return predictor.predict(dataset.texts(rows), k)
    if predictor.parts.facts["tokenizer"] != dataset.manifest.tokenizer.fingerprint:
        problem = "has another tokenizer, and the data set keeps no texts"
        raise DataError(url, problem, "Prepare the data with data.keep_text: true.")
    evidence = predictor.parts.evidence
    has_words = evidence is not None and evidence.vocabulary is not None
    words = dataset.features(rows) if has_words else None  # of the run's own words, as its own tokens
    return predictor.predict_tokens(dataset.gather(rows)[0], k, words=words)


def _records(state: TrainingState, start: Progress) -> JsonlTracker:
    epochs_done = math.ceil(start.step / state.loader.steps_per_epoch) - start.before_epoch_end
    return JsonlTracker(storage.join(state.config.output, "metrics.jsonl"), start.step, epochs_done)


def _trackers(state: TrainingState, records: JsonlTracker | None, tracked: Callback) -> list[Callback]:
    config = state.config
    callbacks: list[Callback] = [tracked]
    if records is not None:
        callbacks += [records, ConsoleTracker(config.log.every_seconds)]
        if config.log.tensorboard:
            callbacks.append(TensorBoardTracker(storage.join(config.output, "tensorboard")))
    return callbacks


def _examples(config: Config, best: tuple[np.ndarray, np.ndarray] | None) -> list[dict[str, Any]]:
    """A few test texts, spread over the split, with their true labels and the five best predicted ones.

    `best` are the labels of the whole split and their scores; None gives no examples.
    """
    dataset = ShardedDataset(data_url(config), "test")
    count = min(config.evaluate.examples, len(dataset)) if config.data.keep_text else 0
    rows = np.linspace(0, len(dataset) - 1, count + 2).astype(np.int64)[1:-1]
    if best is None or not len(rows):
        return []
    names, _ = read_labels(data_url(config))
    _, labels = dataset.gather(rows)
    return [
        {
            "text": text,
            "true": [names[label] for label in labels.values[labels.offsets[i] : labels.offsets[i + 1]]],
            "predicted": [
                {"label": names[label], "score": round(score, 4)}
                for label, score in zip(best[0][rows[i], :5].tolist(), best[1][rows[i], :5].tolist(), strict=True)
                if label >= 0
            ],
        }
        for i, text in enumerate(dataset.texts(rows))
    ]
