"""Apply the rules to all fields without a value from the user."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cxml.config import Config
from cxml.settings.facts import Facts
from cxml.settings.rules import BY_LENGTH, RULES, num_levels_given
from cxml.tree import fit_levels
from cxml.tree.shape import level_sizes_for


@dataclass(frozen=True)
class Choice:
    """A value that was chosen for a field.

    Attributes:
        name: dotted name of the field.
        value: plain value, as in a config file.
        reason: short reason for the value.
    """

    name: str
    value: Any
    reason: str


def choose(config: Config, facts: Facts) -> tuple[Config, list[Choice]]:
    """The config with values for all fields that its `auto` names, and the choices.

    `data.max_length` must be set before, because the facts count tokens of texts truncated to it.

    Raises:
        ConfigError: given values contradict each other, or do not fit the number of labels.
    """
    choices = []
    for name, rule in RULES.items():
        if name in config.auto:
            value, reason = rule(facts, config)
            config = _replaced(config, name, value)
            choices.append(Choice(name, list(value) if isinstance(value, tuple) else value, reason))
        elif name == "tree.level_sizes":
            config = fit_levels(config, facts.num_labels)
    assert not config.auto, config.auto
    return config, choices


def choose_by_length(config: Config, facts: Facts, open_names: Sequence[str]) -> list[Choice]:
    """Repeat the choices that depend on the length of the training, for another length.

    Args:
        config: with values for all fields.
        facts: of the run.
        open_names: fields without a value from the user.
    """
    choices = []
    for name in BY_LENGTH:
        if name in open_names:
            value, reason = RULES[name](facts, config)
            choices.append(Choice(name, list(value) if isinstance(value, tuple) else value, reason))
    return choices


def fit_to_labels(config: Config, num_labels: int) -> Config:
    """The config with numbers for `tree.level_sizes`; its other open fields stay open.

    Raises:
        ConfigError: the levels fit neither the number of labels nor a field of `model` with one value per level.
    """
    if "tree.level_sizes" not in config.auto:
        return fit_levels(config, num_labels)
    sizes = level_sizes_for(num_labels, num_levels_given(config))
    return fit_levels(_replaced(config, "tree.level_sizes", sizes), num_labels)


def _replaced(config: Config, name: str, value: object) -> Config:
    """The config with a value for one of its open fields."""
    section, field = name.split(".")
    changed = dataclasses.replace(getattr(config, section), **{field: value})
    still_open = tuple(each for each in config.auto if each != name)
    return dataclasses.replace(config, **{section: changed, "auto": still_open})
