"""Evaluate a trained model: metrics with confidence intervals, by level and by label frequency, beside other systems.

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
    """Evaluate the model that cxml.train left in the output of a config, on the test split, and print the report.

    The scores stay in predictions.npz, the figures in report.json and comparison.json, all of it for readers in
    report.html, in the run's output.
    """

    settings: Settings
    models: tuple[str, ...] = ()
    """Further models over the same labels, each as NAME=URL: a run's output, a checkpoint, an exported folder."""
    predictions: tuple[str, ...] = ()
    """Scores of other systems on the test split, each as NAME=FILE: .npz of scipy's sparse matrices, XMC score text, or
    an output folder of cxml.predict."""
    rows: tuple[Literal["fp32", "bf16", "fp8", "int8"], ...] = ()
    """Number formats of the label rows to try with the run's own model, to see what they cost."""
    logit_adjustments: tuple[float, ...] = ()
    """Parts of each label's log odds among the train texts to try taking off its logit, such as 0.1 0.2: rare labels
    rank higher. `python -m cxml.export --logit-adjustment` makes a model of the one that serves best."""
    propensity_rankings: tuple[float, ...] = ()
    """Powers of the inverse propensity to try multiplying each label's score by before ranking, such as 0.5 1: 1 ranks
    for PSP@k. `python -m cxml.export --propensity-ranking` makes a model of the one that serves best."""
    ensemble: bool = False
    """Also the mean of the scores of all models and systems."""
    resamples: int = 1000
    """Resamples of the bootstrap that the confidence intervals come from."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0, or 2 if something was refused or failed in a way that cxml names."""
    return run_with_config(EvaluateCommand, _evaluate, "python -m cxml.evaluate", arguments)


def _evaluate(command: EvaluateCommand) -> None:
    from cxml.comparison import Comparison, compare  # noqa: PLC0415  the heavy libraries
    from cxml.launching import run_job_for  # noqa: PLC0415
    from cxml.pipeline import evaluate_again  # noqa: PLC0415
    from cxml.pipeline.settled_config import settled  # noqa: PLC0415
    from cxml.report import write_page  # noqa: PLC0415
    from cxml.storage.locks import locked  # noqa: PLC0415

    comparison = Comparison(
        models=_named("--models", command.models), predictions=_named("--predictions", command.predictions),
        rows=command.rows, logit_adjustments=command.logit_adjustments,
        propensity_rankings=command.propensity_rankings, ensemble=command.ensemble, resamples=command.resamples,
    )  # fmt: skip
    comparison.require_places()
    config = settled(command.settings)
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
            raise ConfigError(option, value, "is not NAME=PLACE, or the name is given twice", "Write mine=runs/mine.")
        found[name] = place
    return found


if __name__ == "__main__":
    sys.exit(main())
