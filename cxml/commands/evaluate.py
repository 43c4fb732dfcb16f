"""Evaluate a trained model: metrics with confidence intervals, by level and by label frequency, and other systems.

python -m cxml.evaluate --config configs/quickstart.yaml --evaluate.top-k 1 10 100
python -m cxml.evaluate --config mine.yaml --models larger=runs/larger --predictions pecos=pecos.npz --ensemble
python -m cxml.evaluate --config mine.yaml --rows bf16 int8 --logit-adjustments 0.1 0.2 --propensity-rankings 0.5 1
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cxml.cli import Settings, run_with_config
from cxml.config import config_to_dict
from cxml.config_files import dump_config
from cxml.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class EvaluateCommand:
    """Evaluate the trained model of a run on its test split, and print the report.

    Writes to the run's output: scores to predictions.npz, metrics to report.json and comparison.json, and a page with
    all of them to report.html.
    """

    settings: Settings
    models: tuple[str, ...] = ()
    """Further models with the same labels, each as NAME=URL: a run's output, a checkpoint or an exported folder."""
    predictions: tuple[str, ...] = ()
    """Scores of other systems on the test split, each as NAME=FILE: a SciPy sparse matrix (.npz), score text of the XMC
    repository, or an output folder of cxml.predict."""
    rows: tuple[Literal["fp32", "bf16", "fp8", "int8"], ...] = ()
    """Number formats of the label rows in which to evaluate the run's model, to compare their accuracy."""
    logit_adjustments: tuple[float, ...] = ()
    """Multiples of each label's log odds among the train texts to subtract from its logit, such as 0.1 0.2; rare labels
    then rank higher. `python -m cxml.export --logit-adjustment` exports a model with one of them."""
    propensity_rankings: tuple[float, ...] = ()
    """Powers of the inverse propensity by which to multiply each label's score before ranking, such as 0.5 1; 1 ranks
    for PSP@k. `python -m cxml.export --propensity-ranking` exports a model with one of them."""
    ensemble: bool = False
    """Also evaluate the mean of the scores of all models and systems."""
    resamples: int = 1000
    """Number of bootstrap resamples for the confidence intervals."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code: 0, or 2 after an error of cxml."""
    return run_with_config(EvaluateCommand, _evaluate, "python -m cxml.evaluate", arguments)


def _evaluate(command: EvaluateCommand) -> None:
    from cxml.comparison import Comparison, compare  # noqa: PLC0415  the heavy libraries
    from cxml.launching import run_job_for  # noqa: PLC0415
    from cxml.pipeline import evaluate_again  # noqa: PLC0415
    from cxml.pipeline.resolved_config import resolved  # noqa: PLC0415
    from cxml.report import write_page  # noqa: PLC0415
    from cxml.storage.locks import locked  # noqa: PLC0415

    comparison = Comparison(
        models=_named("--models", command.models), predictions=_named("--predictions", command.predictions),
        rows=command.rows, logit_adjustments=command.logit_adjustments,
        propensity_rankings=command.propensity_rankings, ensemble=command.ensemble, resamples=command.resamples,
    )  # fmt: skip
    comparison.require_places()
    config = resolved(command.settings)
    run_job = run_job_for(config)
    with locked(config.output):
        report = evaluate_again(config, run_job)
        found = compare(config, comparison, run_job)
        write_page(config.output, report, dump_config(config_to_dict(config)), found)


def _named(option: str, values: Sequence[str]) -> dict[str, str]:
    """NAME=PLACE pairs as a dictionary."""
    found: dict[str, str] = {}
    for value in values:
        name, equals, place = value.partition("=")
        if not (name and equals and place) or name in found:
            raise ConfigError(option, value, "is not NAME=PLACE, or the name is repeated", "Write e.g. mine=runs/mine.")
        found[name] = place
    return found


if __name__ == "__main__":
    sys.exit(main())
