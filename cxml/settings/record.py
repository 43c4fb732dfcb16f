"""The choices of a run, stored in its output, so that a resumed run uses the same values on any machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from cxml import artefacts, storage
from cxml.config import CHOOSABLE, Config, config_to_dict
from cxml.config_files import dump_config
from cxml.errors import DataError
from cxml.settings.choose import Choice

_RECORD, _CONFIG, _BUDGET = "settings.json", "config.yaml", "budget.json"
_REMEDY = "Delete it to choose the settings again. Another version or machine may choose other values."


def read_record(output: str, fingerprint: str) -> list[Choice] | None:
    """Read the choices of the run in `output` for the same data and given values; None if there are none.

    Raises:
        DataError: the file is damaged.
    """
    url = storage.join(output, _RECORD)
    if not storage.exists(url):
        return None
    found = artefacts.read_json(url, _REMEDY)
    if found.get("fingerprint") != fingerprint:
        return None
    try:
        choices = [Choice(**each) for each in found["choices"]]
    except (KeyError, TypeError) as error:
        raise DataError(url, "does not contain a valid list of choices", _REMEDY) from error
    if any(choice.name not in CHOOSABLE for choice in choices):
        raise DataError(url, "names fields that are never chosen automatically", _REMEDY)
    return choices


def add_to_record(output: str, name: str, values: Mapping[str, Any]) -> None:
    """Store another decision of the run with its choices."""
    url = storage.join(output, _RECORD)
    record = artefacts.read_json(url, _REMEDY) if storage.exists(url) else {}
    if record.get(name) != values:
        storage.write_json(url, {**record, name: dict(values)})


def read_budget(output: str) -> dict[str, Any]:
    """Read the stored time budget of the run in `output`, see `cxml.pipeline.time_budget`; empty if there is none.

    Raises:
        DataError: the file is damaged.
    """
    url = storage.join(output, _BUDGET)
    return artefacts.read_json(url, "Train again with --force train.") if storage.exists(url) else {}


def write_budget(output: str, values: Mapping[str, Any]) -> None:
    """Add to the stored state of a run's time budget; empty `values` delete it."""
    url = storage.join(output, _BUDGET)
    if values:
        storage.write_json(url, {**read_budget(output), **values})
    else:
        storage.remove(url)


def write_record(output: str, fingerprint: str, config: Config, choices: Sequence[Choice]) -> None:
    """Write the choices, and the resulting config as a file that can be used for training."""
    storage.write_atomic(storage.join(output, _CONFIG), dump_config(config_to_dict(config)).encode())
    record = {"fingerprint": fingerprint, "choices": [dataclasses.asdict(choice) for choice in choices]}
    storage.write_json(storage.join(output, _RECORD), record)
