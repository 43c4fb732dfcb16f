"""Whether a run may go on from a checkpoint: what shapes the model must be the same, how work is spread need not."""

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
    """Refuse a checkpoint of a run with other settings than this one, or over another tree.

    Raises:
        StaleArtefactError: names the first field that differs. (The loader checks the data, the seed and the batches.)
    """
    if run.tree != tree:
        raise _stale(url, "it was saved with another label tree")
    saved, wanted = dict(_fields(run.config)), dict(_fields(config_to_dict(config)))
    defaults = _defaults()
    for name in sorted(wanted):
        before = saved.get(name, defaults.get(name))  # a field that is newer than the checkpoint
        if before != wanted[name]:
            raise _stale(url, f"it was saved with {name} = {before!r}, this run has {wanted[name]!r}")


def _fields(config: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    """The fields that shape the model while it is trained, by dotted name."""
    for section, kind in _SECTIONS.items():
        values = config.get(section)
        if isinstance(values, Mapping):
            for name, effect in effects(kind).items():
                if effect == "result" and name in values:
                    value = values[name]  # checkpoints of earlier versions hold URLs with their credentials
                    yield f"{section}.{name}", urls.masked(value) if isinstance(value, str) else value


def _defaults() -> dict[str, object]:
    """What the sections' fields are where nothing is said."""
    sections = {name: dataclasses.asdict(kind()) for name, kind in _SECTIONS.items()}
    return dict(_fields(json.loads(json.dumps(sections))))


def _stale(url: str, problem: str) -> StaleArtefactError:
    remedy = "Use the settings that it was saved with, or start again with --force train."
    return StaleArtefactError(f"{url}: {problem}. {remedy}")
