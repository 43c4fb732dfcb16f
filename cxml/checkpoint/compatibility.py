"""Whether a run may go on from a checkpoint: what shapes the model must be the same, how work is spread need not."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping

from cxml.checkpoint.manifest import RunState
from cxml.config import Config, config_to_dict
from cxml.errors import StaleArtefactError

_SECTIONS = ("model", "head", "optim", "train")
_FREE = {
    "head.implementation",
    "head.group_size",
    "train.accumulation",
    "train.num_workers",
    "train.threads_per_worker",
    "train.zero_stage",
    "train.activation_checkpointing",
    "train.evaluate_every",
    "train.hang_minutes",
}


def check_same_run(run: RunState, config: Config, tree: str, url: str) -> None:
    """Refuse a checkpoint of a run with other settings than this one, or over another tree.

    Raises:
        StaleArtefactError: names the first field that differs. (The loader checks the data, the seed and the batches.)
    """
    if run.tree != tree:
        raise _stale(url, "it was saved with another label tree")
    saved, wanted = dict(_fields(run.config)), dict(_fields(config_to_dict(config)))
    defaults = _defaults(config)
    for name in sorted((wanted.keys() | saved.keys()) - _FREE):
        before = saved.get(name, defaults.get(name))  # a field that is newer than the checkpoint
        if name in wanted and before != wanted[name]:
            raise _stale(url, f"it was saved with {name} = {before!r}, this run has {wanted[name]!r}")


def _fields(config: Mapping[str, object]) -> Iterator[tuple[str, object]]:
    for section in _SECTIONS:
        values = config.get(section)
        if isinstance(values, Mapping):
            yield from ((f"{section}.{name}", value) for name, value in values.items())


def _defaults(config: Config) -> dict[str, object]:
    """What the sections' fields are where nothing is said."""
    sections = {name: dataclasses.asdict(type(getattr(config, name))()) for name in _SECTIONS}
    return dict(_fields(json.loads(json.dumps(sections))))


def _stale(url: str, problem: str) -> StaleArtefactError:
    remedy = "Go on with the settings of then, or begin anew with --force train."
    return StaleArtefactError(f"{url}: {problem}. {remedy}")
