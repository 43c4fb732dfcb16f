"""What a run has chosen, kept in its output: the next start takes the same values, on another machine too."""

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
_REMEDY = "Delete it: the settings are then chosen again, which another version or machine may do differently."


def read_record(output: str, fingerprint: str) -> list[Choice] | None:
    """The choices that the run in `output` has made from the same data and given values; None where there are none.

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
        raise DataError(url, "does not list what was chosen", _REMEDY) from error
    if any(choice.name not in CHOOSABLE for choice in choices):
        raise DataError(url, "names fields that cannot be chosen", _REMEDY)
    return choices


def add_to_record(output: str, name: str, values: Mapping[str, Any]) -> None:
    """Keep something else that the run has decided beside its choices."""
    url = storage.join(output, _RECORD)
    record = artefacts.read_json(url, _REMEDY) if storage.exists(url) else {}
    if record.get(name) != values:
        storage.write_json(url, {**record, name: dict(values)})


def read_budget(output: str) -> dict[str, Any]:
    """What the run in `output` keeps of its time budget: see `cxml.pipeline.time_budget`; empty where there is nothing.

    Raises:
        DataError: the file is damaged.
    """
    url = storage.join(output, _BUDGET)
    return artefacts.read_json(url, "Train again with --force train.") if storage.exists(url) else {}


def write_budget(output: str, values: Mapping[str, Any]) -> None:
    """Keep something more of a run's time budget; without anything, forget all of it."""
    url = storage.join(output, _BUDGET)
    if values:
        storage.write_json(url, {**read_budget(output), **values})
    else:
        storage.remove(url)


def write_record(output: str, fingerprint: str, config: Config, choices: Sequence[Choice]) -> None:
    """Keep the choices, and beside them the config that they make, as a file to train with again."""
    storage.write_atomic(storage.join(output, _CONFIG), dump_config(config_to_dict(config)).encode())
    record = {"fingerprint": fingerprint, "choices": [dataclasses.asdict(choice) for choice in choices]}
    storage.write_json(storage.join(output, _RECORD), record)
