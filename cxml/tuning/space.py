"""The search space: fields of the config, each with a choice or a range."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray import tune

from cxml.config import Config, with_values
from cxml.config_files import config_file
from cxml.errors import ConfigError
from cxml.yaml_files import read_yaml

_KINDS: dict[str, Callable[..., Any]] = {
    "choice": lambda *values: tune.choice(list(values)),
    "uniform": tune.uniform,
    "loguniform": tune.loguniform,
    "integers": lambda low, high: tune.randint(low, high + 1),
}
_REMEDY = "Write e.g. optim.encoder_lr: {loguniform: [1.0e-5, 1.0e-3]}; kinds: " + ", ".join(_KINDS) + "."


def read_space(file: str, base: Config) -> dict[str, Any]:
    """Read the distributions of a YAML file, by field.

    Raises:
        ConfigError: the file cannot be read, a field or kind is unknown, or a drawn value does not fit the config.
        DataError: the file is not valid YAML, or repeats a key.
    """
    try:
        content = read_yaml(config_file(file))
    except OSError as error:
        raise ConfigError("--space", file, f"cannot be read ({error})", "Give a YAML file; see configs/.") from error
    if not isinstance(content, dict) or not content:
        raise ConfigError("--space", file, "names no field", _REMEDY)
    space = {str(name): _distribution(str(name), what) for name, what in content.items()}
    with_values(base, {name: distribution.sample() for name, distribution in space.items()})  # checks the values
    return space


def _distribution(name: str, what: object) -> Any:  # noqa: ANN401 - Ray Tune's own types
    if not isinstance(what, dict) or len(what) != 1:
        raise ConfigError(name, what, "is not a distribution", _REMEDY)
    ((kind, values),) = what.items()
    if kind not in _KINDS or not isinstance(values, list) or not values:
        raise ConfigError(name, what, "is not a distribution", _REMEDY)
    numbers = values if kind == "choice" else [_number(name, value) for value in values]
    try:
        return _KINDS[kind](*numbers)
    except (TypeError, ValueError) as error:
        raise ConfigError(name, what, f"is not a valid distribution ({error})", _REMEDY) from error


def _number(name: str, value: object) -> float | int:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    try:
        return float(value if isinstance(value, str) else "")
    except ValueError as error:
        raise ConfigError(name, value, "is not a number", _REMEDY) from error
