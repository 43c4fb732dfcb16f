"""Whether a run may resume from a checkpoint. Settings of the model must match, those of the parallelism need not."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping

from cxml import urls
from cxml.checkpoint.manifest import RunState
from cxml.config import Config, HeadConfig, ModelConfig, OptimConfig, TrainConfig, config_to_dict, effects
from cxml.errors import StaleArtefactError

_SECTIONS = {"model": ModelConfig, "head": HeadConfig, "optim": OptimConfig, "train": TrainConfig}


def check_same_run(run: RunState, config: Config, tree: str, url: str) -> None:
    """Check that a checkpoint's settings and label tree match this run.

    Raises:
        StaleArtefactError: a field differs; names the first one. (The loader checks data, seed and batches.)
    """
    if run.tree != tree:
        raise _stale(url, "it was saved with another label tree")
    saved, wanted = dict(_fields(run.config)), dict(_fields(config_to_dict(config)))
    defaults = _defaults()
    for name in sorted(wanted):
        before = saved.get(name, defaults.get(name))  # the field is newer than the checkpoint
        if before != wanted[name]:
            raise _stale(url, f"it was saved with {name} = {before!r}, but this run has {wanted[name]!r}")


def _fields(config: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """The fields that affect the trained model, by dotted name."""
    for section, kind in _SECTIONS.items():
        values = config.get(section)
        if isinstance(values, Mapping):
            for name, effect in effects(kind).items():
                if effect == "result" and name in values:
                    value = values[name]  # checkpoints of earlier versions contain URLs with credentials
                    yield f"{section}.{name}", urls.masked(value) if isinstance(value, str) else value


def _defaults() -> dict[str, object]:
    """The default values of the fields."""
    sections = {name: dataclasses.asdict(kind()) for name, kind in _SECTIONS.items()}
    return dict(_fields(json.loads(json.dumps(sections))))


def _stale(url: str, problem: str) -> StaleArtefactError:
    remedy = "Use the settings that it was saved with, or restart with --force train."
    return StaleArtefactError(f"{url}: {problem}. {remedy}")
