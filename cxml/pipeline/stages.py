"""The stages of a run: the result of each, its inputs, and whether the result exists.

    prepare -> tree -> train -> evidence (optional) -> evaluate
            -> baseline (optional)

A finished stage writes a JSON file with the fingerprint of its inputs. A result from other inputs raises an error and
is never overwritten silently: `--force STAGE` repeats the stage and all stages that depend on it.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

from rich.console import Console

from cxml import artefacts, storage
from cxml.checkpoint import has_model, model_url
from cxml.config import Config, fingerprint_fields
from cxml.console import counted
from cxml.data import DataManifest, ShardedDataset, data_url, validation_texts
from cxml.errors import InterruptionError, StaleArtefactError
from cxml.evidence import evidence_folder
from cxml.launching import RunJob
from cxml.metrics import metric_sums
from cxml.pipeline.plan import plan_run
from cxml.pipeline.time_budget import budget_report, time_limit
from cxml.prediction import model_identity, read_run_decisions
from cxml.preparation import is_prepared, prepare
from cxml.report import linear_baseline
from cxml.storage.locks import locked
from cxml.training import (
    TimeLimit,
    begin_evidence,
    complete_evidence,
    decide_run,
    ending_lost_runs,
    evaluate_run,
    evidence_url,
    read_selection,
    remove_evidence,
    selection_run,
    track_report,
    train,
    validated_run,
    with_precision,
)
from cxml.training.evaluation import propensity_weights
from cxml.tree import build, tree_fingerprint, tree_url

_log = logging.getLogger(__name__)

StageName = Literal["prepare", "tree", "train", "evidence", "baseline", "evaluate"]

_PRECISIONS = ("fp32", "bf16")
STAGE_REMEDY = "Use --force {stage} to run it again, or another output folder to keep both."


@dataclass(frozen=True)
class Stage:
    """A stage of the run.

    Attributes:
        needs: stages whose results it reads.
        folder: URL of its result, a folder or a file.
        is_done: whether its result exists. Data, tree and model from other inputs raise `StaleArtefactError`; evidence
            and metrics are made again instead.
        make: runs the stage, and writes the file with its fingerprint last.
    """

    needs: tuple[StageName, ...]
    folder: Callable[[Config], str]
    is_done: Callable[[Config], bool]
    make: Callable[[Config], object]


def make_stage(config: Config, name: StageName, stage: Stage, *, is_done: bool) -> None:
    """Run a stage unless it `is_done`, and log it."""
    if is_done:
        _log.info("%-8s found: %s", name, stage.folder(config))
        return
    _log.info("%-8s begins: %s", name, stage.folder(config))
    began = time.monotonic()
    stage.make(config)
    _log.info("%-8s done in %.0f s", name, time.monotonic() - began)


def stages_of(config: Config, resume: str, run_job: RunJob) -> dict[StageName, Stage]:
    """The stages of a run, in order. While its sources are open, it has the stage `evidence`."""
    make_model = functools.partial(_make_model, resume=resume, run_job=run_job)
    make_evidence = functools.partial(_make_evidence, run_job=run_job)
    evaluate = functools.partial(make_report, run_job=run_job)
    stages: dict[StageName, Stage] = {
        "prepare": Stage((), data_url, is_prepared, prepare),
        "tree": Stage(("prepare",), tree_url, _is_tree_done, _make_tree),
        "baseline": Stage(("prepare",), baseline_url, _is_baseline_done, make_baseline),
        "train": Stage(("tree",), model_url, _is_model_done, make_model),
        "evidence": Stage(("train",), evidence_url, _is_evidence_done, make_evidence),
        "evaluate": Stage(("train", "evidence"), report_url, _is_report_done, evaluate),
    }
    if not config.evaluate.baseline:
        del stages["baseline"]
    if not config.evidence.sources and not any(name.startswith("evidence.") for name in config.auto):
        del stages["evidence"]
    return stages


def _matches(commit_url: str, fingerprints: Collection[str], stage: StageName) -> bool:
    """Whether the file exists with one of these fingerprints. Raises an error for another fingerprint."""
    found = _fingerprint_in(commit_url, stage)
    if found is not None and found not in fingerprints:
        remedy = STAGE_REMEDY.format(stage=stage)
        raise StaleArtefactError(f"{commit_url} was made with other settings or from other inputs. {remedy}")
    return found is not None


def _fingerprint_in(commit_url: str, stage: StageName) -> str | None:
    """The fingerprint in the file of a stage; None if the file does not exist."""
    if not storage.exists(commit_url):
        return None
    return str(artefacts.read_json(commit_url, STAGE_REMEDY.format(stage=stage)).get("fingerprint"))


# tree


def _tree_fingerprint(config: Config) -> str:
    return tree_fingerprint(config, DataManifest.read(data_url(config)).fingerprint)


def _is_tree_done(config: Config) -> bool:
    return _matches(storage.join(tree_url(config), artefacts.MANIFEST), [_tree_fingerprint(config)], "tree")


def _make_tree(config: Config) -> None:
    with locked(tree_url(config), wait=True):
        if not _is_tree_done(config):  # another run may have built it in the meantime
            build(config, ShardedDataset(data_url(config), "train"))


# train


def model_fingerprints(config: Config) -> dict[str, str]:
    """Hash of all inputs of a run's model, for each precision that it may be trained in."""
    precision = config.train.precision
    resolved = {each: with_precision(config, each) for each in (_PRECISIONS if precision == "auto" else (precision,))}
    return {name: _model_fingerprint(each) for name, each in resolved.items()}


def _model_fingerprint(config: Config) -> str:
    sections = [fingerprint_fields(config, name) for name in ("model", "head", "optim", "train")]
    interval = [config.train.evaluation_interval] if config.train.selects else []  # determines the compared epochs
    return storage.fingerprint("model", *sections, config.seed, _tree_fingerprint(config), *interval)


def _model_manifest_url(config: Config) -> str:
    return storage.join(model_url(config), artefacts.MANIFEST)


def _is_model_done(config: Config) -> bool:
    return _matches(_model_manifest_url(config), model_fingerprints(config).values(), "train")


def _make_model(config: Config, resume: str, run_job: RunJob) -> None:
    end: int | TimeLimit | None = time_limit(config.output) if config.train.budget else None
    if config.train.keep == "refit":
        is_selected = _is_model_done(selection_run(config))
        end, resume = _select_epochs(config, resume, run_job), resume if is_selected else "auto"
    plan, _ = plan_run(config)
    Console(stderr=True).print(plan.table())
    with ending_lost_runs(config):
        is_finished = run_job(train, (config, model_fingerprints(config), resume, end), config.train.num_workers)
    if not is_finished:
        raise InterruptionError("A signal stopped the training. Run the same command again to resume.")


def _select_epochs(config: Config, resume: str, run_job: RunJob) -> int:
    """The number of epochs of the final fit: the best epoch of a training without the validation texts.

    Its evidence is also made here, because choices on validation texts need a model that has not seen them.
    """
    selecting = selection_run(config)
    stages = stages_of(selecting, resume, run_job)
    for name in ("train", "evidence"):
        if name in stages:
            is_done = stages[name].is_done(selecting)
            if name == "train" and not is_done:
                _log.info(
                    "Choosing the number of epochs of the final fit on the validation texts: %s", selecting.output
                )
            make_stage(selecting, name, stages[name], is_done=is_done)
    found = read_selection(config)
    of_epochs = counted(found["epochs"], "epoch")
    _log.info("The final fit on all texts takes %d of %s: %s", found["epoch"], of_epochs, found["reason"])
    return found["epoch"]


def is_model_current(config: Config) -> bool:
    """Whether tree and model of a config without open fields exist, with the evidence that the config enables.

    Raises:
        StaleArtefactError: tree or model was made with other settings or from other inputs.
    """
    return _is_tree_done(config) and _is_model_done(config) and _is_evidence_as_wanted(config)


# evidence


def _evidence_manifest_url(config: Config) -> str:
    return storage.join(evidence_url(config), artefacts.MANIFEST)


def _evidence_fingerprint(config: Config) -> str:
    model = storage.sha256(_model_manifest_url(config))
    return storage.fingerprint("evidence", model, config.seed, config.evidence.sources)


def _is_evidence_done(config: Config) -> bool:
    return _fingerprint_in(_evidence_manifest_url(config), "evidence") == _evidence_fingerprint(config)


def _is_evidence_as_wanted(config: Config) -> bool:
    return _is_evidence_done(config) if config.evidence.sources else evidence_folder(model_url(config)) is None


def drop_unwanted_evidence(config: Config) -> None:
    """Delete the evidence of the run's model if the config disables it, because prediction uses all that exists."""
    name = evidence_folder(model_url(config))
    if not config.evidence.sources and name:
        _log.info("evidence is off: deleting %s", storage.join(model_url(config), name))
        remove_evidence(config)


def _make_evidence(config: Config, run_job: RunJob) -> None:
    if config.train.keep == "refit":
        _select_epochs(config, "auto", run_job)
    begin_evidence(config)
    run_job(complete_evidence, (config, _evidence_fingerprint(config)), config.train.num_workers)


# baseline


def baseline_url(config: Config) -> str:
    """The file of the linear baseline's metrics."""
    return storage.join(config.output, "baseline.json")


def _metric_settings(config: Config) -> list[object]:
    return [config.evaluate.top_k, config.data.propensity_a, config.data.propensity_b]


def _baseline_fingerprint(config: Config) -> str:
    data = DataManifest.read(data_url(config)).fingerprint
    return storage.fingerprint("baseline", data, _metric_settings(config))


def _is_baseline_done(config: Config) -> bool:
    return _fingerprint_in(baseline_url(config), "baseline") == _baseline_fingerprint(config)


def make_baseline(config: Config) -> None:
    """Train and evaluate the linear baseline."""
    train_split, test_split = (ShardedDataset(data_url(config), split) for split in ("train", "test"))
    top_k = config.evaluate.top_k
    width = min(max(top_k), train_split.manifest.num_labels)
    predicted = linear_baseline(train_split.features_csr(), train_split.labels_csr(), test_split.features_csr(), width)
    metrics = metric_sums(predicted, test_split.labels_csr(), top_k, propensity_weights(config)).result()
    fingerprint = _baseline_fingerprint(config)
    storage.write_json(baseline_url(config), {"fingerprint": fingerprint, "metrics": metrics})


# decisions and evaluation


def make_decisions(config: Config, run_job: RunJob) -> None:
    """Choose the model's thresholds and calibration on the validation texts, unless the output has them.

    Without validation texts, or if the model that selected the epochs is gone, there is nothing to choose them with.
    """
    has_texts = validation_texts(data_url(config), config.train.validation_fraction) is not None
    if not has_texts or not has_model(model_url(validated_run(config))):
        return
    if not read_run_decisions(config.output, model_identity(model_url(config)), None).num_texts:
        run_job(decide_run, (config,), config.train.num_workers)


def report_url(config: Config) -> str:
    """The file of the report."""
    return storage.join(config.output, "report.json")


def _report_fingerprint(config: Config) -> str:
    evidence = [_evidence_fingerprint(config)] if config.evidence.sources else []
    return storage.fingerprint(
        "report",
        _fingerprint_in(_model_manifest_url(config), "train"),
        _metric_settings(config),
        dataclasses.asdict(config.evaluate),
        *evidence,
    )


def _is_report_done(config: Config) -> bool:
    return _fingerprint_in(report_url(config), "evaluate") == _report_fingerprint(config)


def make_report(config: Config, run_job: RunJob) -> None:
    """Evaluate the model, and write the report."""
    report = run_job(evaluate_run, (config,), config.train.num_workers)
    if config.train.selects:
        report["selection"] = read_selection(config)
    if config.train.budget:
        report["budget"] = budget_report(config)
    storage.write_json(report_url(config), {"fingerprint": _report_fingerprint(config), **report})
    track_report(config, report)
