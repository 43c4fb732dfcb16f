"""Split off held-out texts, run the trials, write the best config."""

from __future__ import annotations

import dataclasses
import logging
import os
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import BasicVariantGenerator
from rich.table import Table

from cxml import ray_cluster, storage
from cxml.config import Config, EvidenceConfig, config_to_dict, is_reported, with_values
from cxml.config_files import dump_config
from cxml.console import table_console
from cxml.data import data_url
from cxml.errors import ConfigError, CxmlError
from cxml.pipeline.resolved_config import resolved
from cxml.preparation import is_prepared, prepare
from cxml.preparation.validation_split import hold_out
from cxml.storage.locks import locked
from cxml.tuning.space import read_space
from cxml.tuning.trial import Trial

_log = logging.getLogger(__name__)
_LOG_WIDTH = 140


def search(
    config: Config, space_file: str, *, trials: int, metric: str, held_out: float, cpus: int, gpus: int, reduction: int
) -> Config:
    """Search for values of some fields of `config` and return the best config; see `cxml.commands.tune.TuneCommand`.

    Raises:
        ConfigError: the output is not local, or the space or the metric is invalid.
        DataError: the raw data is broken.
        CxmlError: no trial reached an evaluation.
        InUseError: another command writes to the output.
    """
    with locked(config.output):
        return _search(
            config, space_file, trials=trials, metric=metric, held_out=held_out, cpus=cpus, gpus=gpus,
            reduction=reduction,
        )  # fmt: skip


def _search(
    config: Config, space_file: str, *, trials: int, metric: str, held_out: float, cpus: int, gpus: int, reduction: int
) -> Config:
    folder = storage.local_path(storage.join(config.output, "tune"))
    if folder is None:
        raise ConfigError("output", config.output, "is not local", "Use a local or mounted folder.")
    folder = folder.absolute()
    space = read_space(space_file, config)
    _require_metric(config, metric)
    prepare(config)
    config = resolved(config)  # trials differ only in the drawn values
    base = _base_of_trials(config, folder, held_out, cpus)
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ray Tune would end the search on Ctrl-C
    with ray_cluster.joined_cluster() as cluster_cpus:
        tuner = _tuner(base, space, folder, trials=trials, metric=metric, reduction=reduction,
                       resources={"cpu": cpus or cluster_cpus, "gpu": gpus})  # fmt: skip
        results = tuner.fit()
    rows = [(result.metrics or {}) for result in results]
    finished = [row for row in rows if metric in row]
    if not finished:
        raise CxmlError(f"none of {len(rows)} trials reached an evaluation; see the log.txt of each in {folder}/trials")
    _print_trials(finished, list(space), metric)
    best = max(finished, key=lambda row: row[metric])
    chosen = with_values(config, {name: best["config"]["drawn"][name] for name in space})
    file = folder / "best.yaml"
    file.write_text(dump_config(config_to_dict(chosen)))
    _log.info("Config of the best trial: %s. To train with it, run python -m cxml.train --config %s", file, file)
    return chosen


def _require_metric(config: Config, metric: str) -> None:
    if not is_reported(metric, config.evaluate.top_k):
        known = ", ".join(f"P@{k}" for k in config.evaluate.top_k)
        raise ConfigError("--metric", metric, "is not reported with this config", f"Choose one such as {known}, PSP@1.")


def _base_of_trials(config: Config, folder: Path, held_out: float, cpus: int) -> Config:
    """The base config of all trials: trains on a part of the train texts and evaluates on the rest."""
    data = str(folder / "data")
    shared = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, directory=data),
        tree=dataclasses.replace(config.tree, directory=""),  # separate per trial, as its fields may be searched too
        train=dataclasses.replace(
            config.train,
            evaluate_every=1,
            keep="last",  # the search itself compares epochs on the held-out texts, which are the trials' test split
            patience=0,
            budget="",
            threads_per_worker=cpus or config.train.threads_per_worker,
            validation_fraction=0.0,  # the texts held out here are used instead
        ),
        evidence=EvidenceConfig(),  # the cascades are compared; evidence needs validation texts
        evaluate=dataclasses.replace(config.evaluate, baseline=False, examples=0),
    )
    if not is_prepared(shared):
        hold_out(data_url(config), data, fraction=held_out, seed=config.seed, name="test")
    return shared


def _tuner(
    base: Config, space: dict[str, Any], folder: Path, *, trials: int, metric: str, reduction: int,
    resources: dict[str, float],
) -> tune.Tuner:  # fmt: skip
    trainable = tune.with_resources(Trial, resources)
    experiment = folder / "ray" / "search"
    if tune.Tuner.can_restore(str(experiment)):
        _log.info("Resuming the search in %s", folder)
        return tune.Tuner.restore(str(experiment), trainable, resume_unfinished=True, restart_errored=True)
    drawn = {"drawn": space, "base": config_to_dict(base), "folder": str(folder / "trials")}
    scheduler = ASHAScheduler(
        time_attr="epoch",
        max_t=base.train.epochs,
        grace_period=1,
        reduction_factor=reduction,
        metric=metric,
        mode="max",
    )
    return tune.Tuner(
        trainable,
        param_space=drawn,
        tune_config=tune.TuneConfig(
            num_samples=trials, scheduler=scheduler, search_alg=BasicVariantGenerator(random_state=base.seed)
        ),
        run_config=tune.RunConfig(name="search", storage_path=str(folder / "ray"), verbose=1),
    )


def _print_trials(rows: list[dict[str, Any]], fields: list[str], metric: str) -> None:
    table = Table(*fields, "epochs", metric, title="Trials, best first", title_justify="left")
    for row in sorted(rows, key=lambda row: -row[metric]):
        drawn = row["config"]["drawn"]
        values = [f"{drawn[field]:.3g}" if isinstance(drawn[field], float) else str(drawn[field]) for field in fields]
        table.add_row(*values, str(row["epoch"]), f"{row[metric]:.2f}")
    table_console(_LOG_WIDTH).print(table)
