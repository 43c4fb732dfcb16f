"""From raw text to metrics: the stages of a run, each made once, reused as long as it fits, redone on demand.

    prepare -> tree -> train -> evidence (if asked for) -> evaluate
            -> baseline (if asked for)

Fields that the config leaves open are settled once the data are prepared (`cxml.run_settings`).

A finished stage leaves a JSON file that carries the fingerprint of all it was made from. One that was made from
something else is refused, never overwritten silently: `--force STAGE` redoes it and all that depends on it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Console

from cxml import storage
from cxml.checkpoint import checkpoints_url, model_url
from cxml.cli import dump_config
from cxml.config import Config, config_to_dict, shaping
from cxml.data import DataManifest, ShardedDataset, data_url, read_labels
from cxml.data_tools.preparation import is_prepared, prepare
from cxml.errors import InterruptionError, StaleArtefactError
from cxml.evidence import evidence_folder
from cxml.launching import RunJob
from cxml.metrics import PropensityConstants, inverse_propensities, metric_sums
from cxml.parallel import run_workers
from cxml.report import linear_baseline, print_report, write_page
from cxml.run_checks import check_run, check_run_on_data
from cxml.run_plan import plan_run
from cxml.run_settings import settle, settled
from cxml.settings import add_to_record
from cxml.storage.locks import locked
from cxml.time_budget import BudgetClock, budget_report, kept_plan, make_plan, time_limit
from cxml.training import (
    TimeLimit,
    begin_evidence,
    complete_evidence,
    ending_lost_runs,
    evaluate_run,
    evidence_url,
    keep_selection,
    read_selection,
    remove_evidence,
    selection_run,
    selection_url,
    track_report,
    train,
    with_precision,
)
from cxml.tree import build, tree_fingerprint, tree_url

_log = logging.getLogger(__name__)

StageName = Literal["prepare", "tree", "train", "evidence", "baseline", "evaluate"]

_PRECISIONS = ("fp32", "bf16")
_REMEDY = "Use --force {stage} to make it again, or another output folder to keep both."


@dataclass(frozen=True)
class Stage:
    """One arrow of the run.

    Attributes:
        needs: stages whose results it reads.
        folder: what it makes: a folder or a file, as a URL.
        is_done: whether its result is there. Of data, tree and model, one that was made from something else raises
            `StaleArtefactError`; evidence and metrics are made again instead: the model of theirs is still there.
        make: makes it; writes the file with its fingerprint last.
    """

    needs: tuple[StageName, ...]
    folder: Callable[[Config], str]
    is_done: Callable[[Config], bool]
    make: Callable[[Config], object]


def run(
    config: Config,
    force: Collection[StageName] = (),
    resume: str = "auto",
    run_job: RunJob = run_workers,
    began: float | None = None,
) -> dict[str, Any]:
    """Run the stages that are missing, and print the report.

    Args:
        config: the run.
        force: stages to make again, with all that depends on them.
        resume: the checkpoint that training goes on from: `auto`, the newest whole one of this run, or a URL.
        run_job: how the processes of training and evaluation come to be.
        began: when the time of `train.budget` began, by `time.monotonic`; None: now.

    Returns:
        The report: `levels`, `examples`, and `baseline` if there is one.

    Raises:
        ConfigError: an optional package that the run needs is not installed.
        InterruptionError: a signal stopped the training; the same call goes on with it.
        InUseError: another command writes to the output.
    """
    began = time.monotonic() if began is None else began
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked(config.output))
        if config.checkpoint.url:
            stack.enter_context(locked(config.checkpoint.url))
        return _run_stages(config, force, _stages(config, resume, run_job), run_job, began)


def make_model(config: Config, run_job: RunJob = run_workers, began: float | None = None) -> Config:
    """Run the stages that are missing up to the model, without evaluating it; arguments and errors as of `run`.

    Returns:
        The config without open fields.
    """
    stages = _stages(config, "auto", run_job)
    with locked(config.output):
        wanted: dict[StageName, Stage] = {name: stages[name] for name in stages if name not in ("baseline", "evaluate")}
        return _make_stages(config, (), wanted, run_job, time.monotonic() if began is None else began)


def _run_stages(
    config: Config, force: Collection[StageName], stages: Mapping[StageName, Stage], run_job: RunJob, began: float
) -> dict[str, Any]:
    config = _make_stages(config, force, stages, run_job, began)
    report = _show_report(config)
    _log.info("Done in %.0f s. Everything is in %s", time.monotonic() - began, config.output)
    return report


def _make_stages(
    config: Config, force: Collection[StageName], stages: Mapping[StageName, Stage], run_job: RunJob, began: float
) -> Config:
    """Make what is missing; the config without open fields.

    Args:
        config: as the user gave it.
        force: stages to make again.
        stages: of the run, in order.
        run_job: how processes come to be.
        began: when the run did, by `time.monotonic`.
    """
    check_run(config, prepares_again="prepare" in force)
    _log.info("Config:\n%s", dump_config(config_to_dict(config)))
    _drop_unwanted_evidence(config)
    given, last_before_training = config, "baseline" if "baseline" in stages else "tree"
    clock = BudgetClock(0.0, began) if force else BudgetClock.of(config.output, began)
    redone: set[StageName] = set()
    for name, stage in stages.items():
        if name in force or redone & set(stage.needs):
            redone.add(name)
            _discard(config, name, stage)
        _make_stage(config, name, stage, is_done=name not in redone and stage.is_done(config))
        if name == "prepare":
            config = settle(config, again=bool(redone) or "tree" in force or "train" in force)
            check_run_on_data(config)
        if config.train.budget and name in ("prepare", "tree", "baseline") and kept_plan(given) is None:
            clock.keep(config.output)
        if config.train.budget and name == last_before_training:
            config = _within_budget(given, config, clock, run_job, evaluates="evaluate" in stages)
        if name == "train" and config.train.selects:
            add_to_record(config.output, "selection", keep_selection(config))
    return config


def _within_budget(given: Config, config: Config, clock: BudgetClock, run_job: RunJob, *, evaluates: bool) -> Config:
    """The config of a run that is about to train, with the steps that its time budget allows."""
    plan = kept_plan(given)
    if plan is not None:
        _log.info("The run keeps its plan: %s", plan)
        return config
    make_plan(given, config, clock, run_job, evaluates=evaluates)
    return settled(given)


def _make_stage(config: Config, name: StageName, stage: Stage, *, is_done: bool) -> None:
    if is_done:
        _log.info("%-8s found: %s", name, stage.folder(config))
        return
    _log.info("%-8s begins: %s", name, stage.folder(config))
    began = time.monotonic()
    stage.make(config)
    _log.info("%-8s done in %.0f s", name, time.monotonic() - began)


def _discard(config: Config, name: StageName, stage: Stage) -> None:
    """Delete what a stage has made. Other runs may share data and tree, and be at work on them."""
    folder = stage.folder(config)
    with locked(folder, wait=True) if name in ("prepare", "tree") else contextlib.nullcontext():
        storage.remove(folder, keep_lock=True)
    if name == "train":
        storage.remove(checkpoints_url(config), keep_lock=True)
        storage.remove(selection_url(config.output))
        storage.remove(selection_run(config).output)
    elif name == "evidence":
        storage.remove(evidence_url(selection_run(config)))


def evaluate_again(config: Config, run_job: RunJob = run_workers) -> dict[str, Any]:
    """Evaluate the finished model of `config`, and its baseline if asked for, and print the report.

    Raises:
        StaleArtefactError: the model is missing, or was trained with other settings than these.
        InUseError: another command writes to the output.
    """
    with locked(config.output):
        return _evaluate_again(config, run_job)


def _evaluate_again(config: Config, run_job: RunJob) -> dict[str, Any]:
    is_done = is_prepared(config)
    if is_done:
        config = settled(config)
        is_done = _is_tree_done(config) and _is_model_done(config) and _is_evidence_as_wanted(config)
    if not is_done:
        problem = f"{model_url(config)} holds no finished model, or none with evidence as the config has it"
        raise StaleArtefactError(f"{problem}. Run python -m cxml.train with the same config first.")
    if config.evaluate.baseline:
        _make_baseline(config)
    _make_report(config, run_job)
    return _show_report(config)


def _show_report(config: Config) -> dict[str, Any]:
    report = storage.read_json(_report_url(config), _REMEDY.format(stage="evaluate"))
    if config.evaluate.baseline:
        report["baseline"] = storage.read_json(_baseline_url(config), _REMEDY.format(stage="baseline"))["metrics"]
    print_report(report)
    write_page(config.output, report, dump_config(config_to_dict(config)))
    return report


def _stages(config: Config, resume: str, run_job: RunJob) -> dict[StageName, Stage]:
    """The stages of a run, in order."""
    make_model = functools.partial(_make_model, resume=resume, run_job=run_job)
    make_evidence = functools.partial(_make_evidence, run_job=run_job)
    make_report = functools.partial(_make_report, run_job=run_job)
    stages: dict[StageName, Stage] = {
        "prepare": Stage((), data_url, is_prepared, prepare),
        "tree": Stage(("prepare",), tree_url, _is_tree_done, _make_tree),
        "baseline": Stage(("prepare",), _baseline_url, _is_baseline_done, _make_baseline),
        "train": Stage(("tree",), model_url, _is_model_done, make_model),
        "evidence": Stage(("train",), evidence_url, _is_evidence_done, make_evidence),
        "evaluate": Stage(("train", "evidence"), _report_url, _is_report_done, make_report),
    }
    if not config.evaluate.baseline:
        del stages["baseline"]
    if not config.evidence.sources:
        del stages["evidence"]
    return stages


def _matches(commit_url: str, fingerprints: Collection[str], stage: StageName) -> bool:
    """Whether the file is there with one of these fingerprints; another one is refused."""
    found = _fingerprint_in(commit_url, stage)
    if found is not None and found not in fingerprints:
        remedy = _REMEDY.format(stage=stage)
        raise StaleArtefactError(f"{commit_url} was made with other settings or from other inputs. {remedy}")
    return found is not None


def _fingerprint_in(commit_url: str, stage: StageName) -> str | None:
    """The fingerprint in the file of a stage; None where there is no such file."""
    if not storage.exists(commit_url):
        return None
    return str(storage.read_json(commit_url, _REMEDY.format(stage=stage)).get("fingerprint"))


# tree


def _tree_fingerprint(config: Config) -> str:
    return tree_fingerprint(config, DataManifest.read(data_url(config)).fingerprint)


def _is_tree_done(config: Config) -> bool:
    return _matches(storage.join(tree_url(config), "manifest.json"), [_tree_fingerprint(config)], "tree")


def _make_tree(config: Config) -> None:
    with locked(tree_url(config), wait=True):
        if not _is_tree_done(config):  # another run may have built it meanwhile
            build(config, ShardedDataset(data_url(config), "train"))


# train


def model_fingerprints(config: Config) -> dict[str, str]:
    """Hash of all that a run's model is made from, by the precisions in which it may be trained."""
    precision = config.train.precision
    settled = {each: with_precision(config, each) for each in (_PRECISIONS if precision == "auto" else (precision,))}
    return {name: _model_fingerprint(each) for name, each in settled.items()}


def _model_fingerprint(config: Config) -> str:
    sections = [shaping(config, name) for name in ("model", "head", "optim", "train")]
    interval = [config.train.evaluation_interval] if config.train.selects else []  # which epochs are compared
    return storage.fingerprint("model", *sections, config.seed, _tree_fingerprint(config), *interval)


def _model_manifest_url(config: Config) -> str:
    return storage.join(model_url(config), "manifest.json")


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
        raise InterruptionError("A signal stopped the training. Run the same command again to go on from there.")


def _select_epochs(config: Config, resume: str, run_job: RunJob) -> int:
    """How many epochs the final fit takes: those of the best epoch of a training that leaves the validation texts out.

    Its evidence is made here too: nothing that is chosen on validation texts may rest on a model that has seen them.
    """
    judged = selection_run(config)
    stages = _stages(judged, resume, run_job)
    for name in ("train", "evidence"):
        if name in stages:
            _log.info("Choosing the epochs of the final fit by the validation texts: %s", judged.output)
            _make_stage(judged, name, stages[name], is_done=stages[name].is_done(judged))
    found = read_selection(config)
    _log.info("The final fit on all texts takes %d of %d epochs: %s", found["epoch"], found["epochs"], found["reason"])
    return found["epoch"]


# evidence


def _evidence_manifest_url(config: Config) -> str:
    return storage.join(evidence_url(config), "manifest.json")


def _evidence_fingerprint(config: Config) -> str:
    model = storage.sha256(_model_manifest_url(config))
    return storage.fingerprint("evidence", model, config.seed, config.evidence.sources)


def _is_evidence_done(config: Config) -> bool:
    return _fingerprint_in(_evidence_manifest_url(config), "evidence") == _evidence_fingerprint(config)


def _is_evidence_as_wanted(config: Config) -> bool:
    return _is_evidence_done(config) if config.evidence.sources else evidence_folder(model_url(config)) is None


def _drop_unwanted_evidence(config: Config) -> None:
    """Delete the evidence of the run's model where the config asks for none: what predicts takes all that is there."""
    name = evidence_folder(model_url(config))
    if not config.evidence.sources and name:
        _log.info("evidence is off: %s is deleted", storage.join(model_url(config), name))
        remove_evidence(config)


def _make_evidence(config: Config, run_job: RunJob) -> None:
    if config.train.keep == "refit":
        _select_epochs(config, "auto", run_job)
    begin_evidence(config)
    run_job(complete_evidence, (config, _evidence_fingerprint(config)), config.train.num_workers)


# baseline


def _baseline_url(config: Config) -> str:
    return storage.join(config.output, "baseline.json")


def _metric_settings(config: Config) -> list[object]:
    return [config.evaluate.top_k, config.data.propensity_a, config.data.propensity_b]


def _baseline_fingerprint(config: Config) -> str:
    data = DataManifest.read(data_url(config)).fingerprint
    return storage.fingerprint("baseline", data, _metric_settings(config))


def _is_baseline_done(config: Config) -> bool:
    return _fingerprint_in(_baseline_url(config), "baseline") == _baseline_fingerprint(config)


def _make_baseline(config: Config) -> None:
    train_split, test_split = (ShardedDataset(data_url(config), split) for split in ("train", "test"))
    top_k = config.evaluate.top_k
    width = min(max(top_k), train_split.manifest.num_labels)
    predicted = linear_baseline(train_split.features_csr(), train_split.labels_csr(), test_split.features_csr(), width)
    _, frequency = read_labels(data_url(config))
    constants = PropensityConstants(config.data.propensity_a, config.data.propensity_b)
    weights = inverse_propensities(frequency, len(train_split), constants)
    metrics = metric_sums(predicted, test_split.labels_csr(), top_k, weights).result()
    fingerprint = _baseline_fingerprint(config)
    storage.write_json(_baseline_url(config), {"fingerprint": fingerprint, "metrics": metrics})


# evaluate


def _report_url(config: Config) -> str:
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
    return _fingerprint_in(_report_url(config), "evaluate") == _report_fingerprint(config)


def _make_report(config: Config, run_job: RunJob) -> None:
    report = run_job(evaluate_run, (config,), config.train.num_workers)
    if config.train.selects:
        report["selection"] = read_selection(config)
    if config.train.budget:
        report["budget"] = budget_report(config)
    storage.write_json(_report_url(config), {"fingerprint": _report_fingerprint(config), **report})
    track_report(config, report)
