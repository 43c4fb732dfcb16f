"""The checkpoints of a run: one folder per attempt to save, named by step and a random suffix.

    step-00001200-1f9a02bc/commit.json, manifest.json, *.safetensors

Attempts never share a folder, so a process that survives the restart of its job does no harm.
"""

from __future__ import annotations

import logging
import re
import secrets
from dataclasses import dataclass

from cxml import storage
from cxml.checkpoint.manifest import COMMIT_FILE, Commit, read_commit
from cxml.config import CheckpointConfig, Config
from cxml.errors import DataError

_log = logging.getLogger(__name__)
_FOLDER = re.compile(r"step-(\d{8,})-[0-9a-f]{8}")


@dataclass(frozen=True)
class Entry:
    """A committed checkpoint: its location and its commit, None if the commit cannot be read."""

    url: str
    step: int
    commit: Commit | None


def checkpoints_url(config: Config) -> str:
    """Folder of a run's checkpoints."""
    return config.checkpoint.url or storage.join(config.output, "checkpoints")


def new_folder(url: str, step: int) -> str:
    """A new, unique folder to save a step in."""
    return storage.join(url, f"step-{step:08d}-{secrets.token_hex(4)}")


def list_checkpoints(url: str) -> list[Entry]:
    """All committed checkpoints under `url`, newest first."""
    entries = []
    for name, step in _attempts(url):
        folder = storage.join(url, name)
        try:
            entries.append(Entry(folder, step, read_commit(folder)))
        except FileNotFoundError:
            continue
        except DataError:
            entries.append(Entry(folder, step, None))  # loading it raises the error
    return entries


def sweep(url: str) -> list[str]:
    """Delete the folders of interrupted saves under `url` and return them. No save may be running."""
    swept = []
    for name, _ in _attempts(url):
        folder = storage.join(url, name)
        if not storage.exists(storage.join(folder, COMMIT_FILE)):
            if any(storage.file_sizes(folder).values()):  # some stores list empty folders
                swept.append(folder)
            storage.remove(folder)
    return swept


def delete(entry: Entry) -> None:
    """Delete a checkpoint: first its commit, then its files."""
    storage.remove_finished(entry.url, COMMIT_FILE)


def retain(url: str, config: CheckpointConfig) -> None:
    """Delete the checkpoints that the config does not keep. Those with an unreadable commit are kept for inspection."""
    entries = [entry for entry in list_checkpoints(url) if entry.commit is not None]
    kept = {entry.url for entry in kept_checkpoints(entries, config)}
    for entry in entries:
        if entry.url not in kept:
            delete(entry)


def kept_checkpoints(entries: list[Entry], config: CheckpointConfig) -> list[Entry]:
    """The kept ones of `entries` (newest first): the last ones, one per `keep_every_steps`, and the best.

    It also keeps checkpoints that a kept one names as its best epoch, because a run that resumes from it needs them.
    """
    kept = entries[: config.keep_last]
    if config.keep_every_steps:
        first_of = {entry.step // config.keep_every_steps: entry for entry in entries}  # newest first: the oldest wins
        kept = kept + [entry for period, entry in first_of.items() if period]
    if config.keep_best:
        name, sign = config.best_metric, 1 if config.best_metric == "loss" else -1
        known = [entry for entry in entries if entry.commit is not None and name in entry.commit.metrics]
        known.sort(key=lambda entry: (sign * entry.commit.metrics[name] if entry.commit else 0, -entry.step))
        kept = kept + known[: config.keep_best]
    named = {entry.commit.best_step for entry in kept if entry.commit is not None}
    return [entry for entry in entries if entry in kept or (entry.step in named and _holds_best(entry))]


def best_checkpoint(entries: list[Entry], step: int) -> Entry | None:
    """The checkpoint saved after the evaluation of the best epoch, which ended with `step`."""
    return next((entry for entry in entries if entry.step == step and _holds_best(entry)), None)


def _holds_best(entry: Entry) -> bool:
    """Whether the checkpoint has the best weights so far."""
    return entry.commit is not None and 0 < entry.commit.best_step == entry.step


def _attempts(url: str) -> list[tuple[str, int]]:
    """Name and step of every started save under `url`, newest first."""
    matches = [match for name in storage.list_folders(url) if (match := _FOLDER.fullmatch(name))]
    return sorted(((match[0], int(match[1])) for match in matches), key=lambda found: (-found[1], found[0]))
