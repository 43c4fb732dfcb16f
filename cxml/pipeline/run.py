"""Run the stages of a config that are missing, and show its report."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import Collection, Mapping
from typing import Any

from cxml import artefacts, storage
from cxml.checkpoint import checkpoints_url, has_model, list_checkpoints, model_url
from cxml.config import Config, config_to_dict
from cxml.config_files import dump_config
from cxml.errors import StaleArtefactError
from cxml.launching import RunJob
from cxml.parallel import run_workers
from cxml.pipeline.budget_clock import BudgetClock
from cxml.pipeline.checks import check_run, check_run_on_data
from cxml.pipeline.plan import require_validation
from cxml.pipeline.resolved_config import resolve_config, resolved
from cxml.pipeline.stages import (
    STAGE_REMEDY,
    Stage,
    StageName,
    baseline_url,
    drop_unwanted_evidence,
    is_model_current,
    make_baseline,
    make_decisions,
    make_report,
    make_stage,
    report_url,
    stages_of,
)
from cxml.pipeline.time_budget import kept_step_budget, make_step_budget
from cxml.preparation import is_prepared, prepare
from cxml.report import print_report, write_page
from cxml.settings import add_to_record
from cxml.storage.locks import locked
from cxml.training import (
    evidence_url,
    keep_selection,
    selection_run,
    selection_url,
)

_log = logging.getLogger(__name__)


def run(
    config: Config,
    force: Collection[StageName] = (),
    resume: str = "auto",
    run_job: RunJob = run_workers,
    began: float | None = None,
) -> dict[str, Any]:
    """Run the unfinished stages, and print the report.

    Args:
        config: the run's config.
        force: stages to run again, with all stages that depend on them.
        resume: the checkpoint to resume training from: `auto` for the newest complete one of this run, or a URL.
        run_job: starts the processes of training and evaluation.
        began: start of the time of `train.budget`, by `time.monotonic`; None for now.

    Returns:
        The report: `levels`, `examples`, and `baseline` if there is one.

    Raises:
        ConfigError: an optional package that the run needs is not installed.
        InterruptionError: a signal stopped the training; the same call resumes it.
        InUseError: another command writes to the output.
    """
    began = time.monotonic() if began is None else began
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked(config.output))
        if config.checkpoint.url:
            stack.enter_context(locked(config.checkpoint.url))
        return _run_stages(config, force, stages_of(config, resume, run_job), run_job, began)


def make_model(
    config: Config, run_job: RunJob = run_workers, began: float | None = None, *, has_test: bool = True
) -> Config:
    """Run the unfinished stages up to the model and its thresholds, without an evaluation; errors as in `run`.

    Args:
        config: the run's config.
        run_job: starts the processes of training.
        began: start of the time of `train.budget`, by `time.monotonic`; None for now.
        has_test: whether the user gave the test texts, see `cxml.preparation.prepare`.

    Returns:
        The config without open fields.
    """
    stages = stages_of(config, "auto", run_job)
    stages["prepare"] = dataclasses.replace(stages["prepare"], make=functools.partial(prepare, has_test=has_test))
    with locked(config.output):
        wanted: dict[StageName, Stage] = {name: stages[name] for name in stages if name not in ("baseline", "evaluate")}
        config = _make_stages(config, (), wanted, run_job, time.monotonic() if began is None else began)
        make_decisions(config, run_job)
        return config


def _run_stages(
    config: Config, force: Collection[StageName], stages: Mapping[StageName, Stage], run_job: RunJob, began: float
) -> dict[str, Any]:
    config = _make_stages(config, force, stages, run_job, began)
    report = _show_report(config)
    _log.info("Done in %.0f s. The results are in %s", time.monotonic() - began, config.output)
    return report


def _make_stages(
    config: Config, force: Collection[StageName], stages: Mapping[StageName, Stage], run_job: RunJob, began: float
) -> Config:
    """Run the unfinished stages. Returns the config without open fields.

    Args:
        config: the user's config.
        force: stages to run again.
        stages: stages of the run, in order.
        run_job: starts processes.
        began: start of the run, by `time.monotonic`.
    """
    check_run(config, prepares_again="prepare" in force)
    _log.info("Config:\n%s", dump_config(config_to_dict(config)))
    given, last_before_training = config, "baseline" if "baseline" in stages else "tree"
    clock = BudgetClock.of(config, began, again=bool(force))
    redone: set[StageName] = set()
    for name, stage in stages.items():
        if name == "evidence" and not config.evidence.sources:
            continue
        if name in force or redone & set(stage.needs):
            _discard(config, name, stage, redone)
            redone.add(name)
        is_before_training = name in ("prepare", "tree", "baseline")
        with clock.limited_before_plan(name) if is_before_training else contextlib.nullcontext():
            make_stage(config, name, stage, is_done=name not in redone and stage.is_done(config))
        if name == "prepare":
            trains_again = bool(redone) or "tree" in force or "train" in force
            if not trains_again:
                _require_same_model(config, stages)
            config = resolve_config(config, again=trains_again)
            _warn_of_unused(force, config, stages)
            require_validation(config)
            drop_unwanted_evidence(config)
            if trains_again or not has_model(model_url(config)):
                check_run_on_data(config)
        if config.train.budget and is_before_training and kept_step_budget(given) is None:
            clock.keep(config.output)
        if config.train.budget and name == last_before_training:
            config = _within_budget(given, config, clock, run_job, evaluates="evaluate" in stages)
        if name == "train" and config.train.selects:
            add_to_record(config.output, "selection", keep_selection(config))
    return config


def _require_same_model(config: Config, stages: Mapping[StageName, Stage]) -> None:
    """Check that the settings are those of an existing model, before choices are stored or evidence is deleted.

    A refused start therefore changes nothing, and the files of a finished run still describe its model.

    Args:
        config: the user's config of a run with prepared data.
        stages: stages of the run.

    Raises:
        StaleArtefactError: the tree or the model is of a run with other settings.
    """
    if config.train.budget:
        _require_plan_or_untrained(config)
    if has_model(model_url(config)):
        fitted = resolved(config)
        stages["tree"].is_done(fitted)
        stages["train"].is_done(fitted)


def _warn_of_unused(force: Collection[StageName], config: Config, stages: Mapping[StageName, Stage]) -> None:
    """Warn of stages to repeat that the run does not have; `config` has no open fields."""
    for name in force:
        if name not in stages or (name == "evidence" and not config.evidence.sources):
            field = "a source of evidence" if name == "evidence" else "evaluate.baseline"
            _log.warning("--force %s has no effect: this run has no such stage. Turn on %s for it.", name, field)


def _require_plan_or_untrained(config: Config) -> None:
    """Check that a run with prepared data and a time budget has a plan, or neither a model nor checkpoints.

    Choices and plan of this start would replace those of the run that made them, which could then not be resumed.

    Raises:
        StaleArtefactError: the model or the checkpoints are of a run with other settings.
    """
    if kept_step_budget(config) is not None:
        return
    model, checkpoints = model_url(config), checkpoints_url(config)
    if has_model(model) or list_checkpoints(checkpoints):
        url = model if has_model(model) else checkpoints
        raise StaleArtefactError(
            f"{url} is of a run with another time budget or other settings. Run the command with the same ones to "
            f"continue it. {STAGE_REMEDY.format(stage='train')}"
        )


def _within_budget(given: Config, config: Config, clock: BudgetClock, run_job: RunJob, *, evaluates: bool) -> Config:
    """The config of a run before its training, with the number of steps that fit its time budget."""
    step_budget = kept_step_budget(given)
    if step_budget is not None:
        _log.info("The run keeps its plan: %s", step_budget)
        return config
    make_step_budget(given, config, clock, run_job, evaluates=evaluates)
    return resolved(given)


def _discard(config: Config, name: StageName, stage: Stage, redone: Collection[StageName]) -> None:
    """Delete the result of a stage. Data and tree may be shared with other runs that use them.

    Args:
        config: the run's config.
        name: name of the stage.
        stage: the stage.
        redone: stages that this start has repeated already. A repeated training has also made the evidence of its
            selection again.
    """
    folder = stage.folder(config)
    with locked(folder, wait=True) if name in ("prepare", "tree") else contextlib.nullcontext():
        storage.remove(folder, keep_lock=True)
    if name == "train":
        storage.remove(checkpoints_url(config), keep_lock=True)
        storage.remove(selection_url(config.output))
        storage.remove(selection_run(config).output)
    elif name == "evidence" and "train" not in redone:
        storage.remove(evidence_url(selection_run(config)))


def evaluate_again(config: Config, run_job: RunJob = run_workers) -> dict[str, Any]:
    """Evaluate the trained model of `config`, optionally with its baseline, and print the report.

    Raises:
        StaleArtefactError: the model is missing, or was trained with other settings.
        InUseError: another command writes to the output.
    """
    with locked(config.output):
        return _evaluate_again(config, run_job)


def _evaluate_again(config: Config, run_job: RunJob) -> dict[str, Any]:
    is_done = is_prepared(config)
    if is_done:
        config = resolved(config)
        is_done = is_model_current(config)
    if not is_done:
        problem = f"{model_url(config)} contains no complete model with the evidence of the config"
        raise StaleArtefactError(f"{problem}. Run python -m cxml.train with the same config first.")
    if config.evaluate.baseline:
        make_baseline(config)
    make_report(config, run_job)
    return _show_report(config)


def _show_report(config: Config) -> dict[str, Any]:
    report = artefacts.read_json(report_url(config), STAGE_REMEDY.format(stage="evaluate"))
    if config.evaluate.baseline:
        report["baseline"] = artefacts.read_json(baseline_url(config), STAGE_REMEDY.format(stage="baseline"))["metrics"]
    print_report(report)
    write_page(config.output, report, dump_config(config_to_dict(config)))
    return report
