"""Find a checkpoint and resume from it, on all ranks together."""

from __future__ import annotations

import logging

import torch.distributed as dist

from cxml.checkpoint.retention import Entry, best_checkpoint, checkpoints_url, list_checkpoints, sweep
from cxml.checkpoint.shards import ShardReader
from cxml.checkpoint.training_state import Progress, TrainingState
from cxml.config import Config
from cxml.console import counted
from cxml.errors import DataError
from cxml.parallel import Ranks

_log = logging.getLogger(__name__)
AUTO = "auto"
_WITHOUT_BEST = "Run the same command again to resume from an earlier checkpoint, or to start over."


def resume(state: TrainingState, offered: list[str]) -> Progress | None:
    """Restore a run from a checkpoint; a collective call.

    Args:
        state: the state of the newly started run.
        offered: the checkpoints to try in order, from `candidate_checkpoints`.

    Returns:
        The progress of the run, or None without a checkpoint.

    Raises:
        StaleArtefactError: the checkpoint belongs to a run with other data or settings.
        DataError: there are checkpoints, but all are damaged.
    """
    own = checkpoints_url(state.config)
    for url in offered:
        progress = _try(state, url)
        if progress is not None:
            if state.ranks.is_first:
                _log.info("Resuming from %s after %s", url, counted(progress.step, "step"))
                for folder in sweep(own):
                    _log.info("Deleted the folder of an interrupted save: %s", folder)
            dist.barrier()
            return progress
    if offered:
        remedy = "Repair one, or restart with --force train."
        raise DataError(own, f"none of {len(offered)} checkpoints can be read; see the messages above", remedy)
    if state.ranks.is_first:
        sweep(own)
    return None


def candidate_checkpoints(config: Config, ranks: Ranks, choice: str = AUTO) -> list[str]:
    """The checkpoints that a run may resume from; empty to start over. A collective call.

    Args:
        config: the run's config.
        ranks: the ranks of this process.
        choice: `auto` for all checkpoints of this run, newest first; else the URL of a checkpoint.
    """
    offered: list[list[str]] = [[]]
    if ranks.is_first:
        offered = [_complete(list_checkpoints(checkpoints_url(config))) if choice == AUTO else [choice]]
    dist.broadcast_object_list(offered)
    return offered[0]


def _complete(entries: list[Entry]) -> list[str]:
    """Entries without those whose best epoch has no checkpoint, because its save failed."""
    return [
        entry.url for entry in entries
        if not (entry.commit and entry.commit.best_step) or best_checkpoint(entries, entry.commit.best_step)
    ]  # fmt: skip


def return_to_best(state: TrainingState, step: int) -> None:
    """Restore a run to the end of its best epoch, after `step` steps; a collective call.

    Raises:
        DataError: the checkpoint of that epoch is missing or damaged.
    """
    url = _best_url(state, step)
    if _try(state, url) is None:
        raise DataError(url, "is damaged, but contains the weights of the best epoch", f"Delete it. {_WITHOUT_BEST}")


def require_best(state: TrainingState, step: int) -> None:
    """Check that the checkpoint of the best epoch so far exists; a collective call.

    Raises:
        DataError: it is missing.
    """
    _best_url(state, step)


def _best_url(state: TrainingState, step: int) -> str:
    folder = checkpoints_url(state.config)
    found: list[str | None] = [None]
    if state.ranks.is_first:
        entry = best_checkpoint(list_checkpoints(folder), step)
        found = [entry and entry.url]
    dist.broadcast_object_list(found)
    if found[0] is None:
        raise DataError(folder, f"contains no checkpoint of step {step}, the end of the best epoch", _WITHOUT_BEST)
    return found[0]


def _try(state: TrainingState, url: str) -> Progress | None:
    """Load a checkpoint if it is valid on every rank. Returns None otherwise."""
    progress, problem, reader = None, "", None
    try:
        reader = ShardReader(url)
        progress = state.load_state_dict(reader)
    except DataError as error:
        problem = str(error)
    problems: list[str] = [""] * state.ranks.world_size
    dist.all_gather_object(problems, problem)
    found = next((text for text in problems if text), "")
    if not found and reader is not None:
        state.finish(reader)
        return progress
    if state.ranks.is_first:
        _log.warning("Cannot resume from the checkpoint %s: %s", url, found)
    return None
