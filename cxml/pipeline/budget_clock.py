"""The clock of a run with a time budget, which refuses a budget as soon as no training fits into it.

    start of the run -> stages before the training -> measured speed -> plan (time_budget)

Each of them is interrupted when the rest of the budget is too short. A run that has a plan keeps it, so the stages of a
later start are not limited.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

from cxml.config import Config, parse_duration
from cxml.errors import ConfigError
from cxml.settings import read_budget, write_budget
from cxml.stopping import OutOfTime, interrupting_after

MARGIN = 0.02  # of the budget, for uncounted work: manifests, the report


@dataclass(frozen=True)
class BudgetClock:
    """The used time of a run, over all its starts until the number of steps is computed.

    Attributes:
        budget: seconds of the whole run; infinite without a budget.
        before: seconds of earlier starts.
        began: time of this start, by `time.monotonic`.
        is_planned: whether an earlier start has planned the steps.
    """

    budget: float
    before: float
    began: float
    is_planned: bool = False

    @classmethod
    def of(cls, config: Config, began: float, *, again: bool = False) -> BudgetClock:
        """The clock of a run that has just been started.

        Args:
            config: the user's config.
            began: time of this start, by `time.monotonic`.
            again: whether the run repeats a stage, so the time of earlier starts and their plan do not count.
        """
        if not config.train.budget:
            return cls(math.inf, 0.0, began)
        kept = {} if again else read_budget(config.output)
        budget = parse_duration("train.budget", config.train.budget)
        return cls(budget, float(kept.get("used_before", 0.0)), began, "plan" in kept)

    @property
    def used(self) -> float:
        """Seconds."""
        return self.before + time.monotonic() - self.began

    @property
    def left(self) -> float:
        """Remaining seconds of the budget without its margin."""
        return (1 - MARGIN) * self.budget - self.used

    def keep(self, output: str) -> None:
        """Store the used time for a later start."""
        write_budget(output, {"used_before": self.used})

    def limited_before_plan(self, stage: str) -> contextlib.AbstractContextManager[None]:
        """Interrupt a stage before the training when the budget is used up, unless the run has a plan or no budget.

        Raises:
            ConfigError: the budget is used up.
        """
        if self.is_planned or math.isinf(self.budget):
            return contextlib.nullcontext()
        return self.limited(self.left, f"the stage {stage} is not finished")

    @contextlib.contextmanager
    def limited(self, seconds: float, problem: str, least: float = 0.0) -> Iterator[None]:
        """Interrupt work before the training after `seconds`, because the budget leaves no time to train then.

        Args:
            seconds: longest time of the work.
            problem: the reason, for the error.
            least: seconds that the rest of the run takes at least.

        Raises:
            ConfigError: the time is over. The message names a lower bound of a sufficient budget.
        """
        try:
            with interrupting_after(seconds):
                yield
        except OutOfTime:
            raise no_time_to_train(self.budget, self.used, problem, self.used + least) from None


def no_time_to_train(budget: float, used: float, problem: str, needed: float) -> ConfigError:
    """The error for a budget without time to train; all times in seconds.

    Args:
        budget: time of the whole run.
        used: used time.
        problem: what takes the remaining time.
        needed: time of the shortest run, without the margin.
    """
    return ConfigError(
        "train.budget", f"{budget:.0f}s", f"leaves no time to train: {used:.0f} s are used, and {problem}",
        f"Give more than {math.ceil(needed / (1 - MARGIN))}s.",
    )  # fmt: skip
