"""Find the checkpoint to go on from, and go on from it, all ranks together."""

from __future__ import annotations

import logging

import torch.distributed as dist

from cxml.checkpoint.retention import Entry, best_checkpoint, checkpoints_url, list_checkpoints, sweep
from cxml.checkpoint.shards import ShardReader
from cxml.checkpoint.training_state import Progress, TrainingState
from cxml.config import Config
from cxml.errors import DataError
from cxml.parallel import Ranks

_log = logging.getLogger(__name__)
AUTO = "auto"
_WITHOUT_BEST = "Run the same command again: it goes on from an earlier checkpoint, or begins anew."


def resume(state: TrainingState, offered: list[str]) -> Progress | None:
    """Put a run back to where a checkpoint left it; a collective call.

    Args:
        state: of the freshly started run.
        offered: the checkpoints to try, the best first, from `offered_checkpoints`.

    Returns:
        Where the run stands, or None if there is no checkpoint.

    Raises:
        StaleArtefactError: the checkpoint is of a run with other data or settings.
        DataError: there are checkpoints, but none that is whole.
    """
    own = checkpoints_url(state.config)
    for url in offered:
        progress = _try(state, url)
        if progress is not None:
            if state.ranks.is_first:
                _log.info("Going on from %s: %d steps are done", url, progress.step)
                for folder in sweep(own):
                    _log.info("Deleted what an interrupted save left: %s", folder)
            dist.barrier()
            return progress
    if offered:
        remedy = "Repair one, or start again with --force train."
        raise DataError(own, f"none of {len(offered)} checkpoints can be read; see above", remedy)
    if state.ranks.is_first:
        sweep(own)
    return None


def offered_checkpoints(config: Config, ranks: Ranks, choice: str = AUTO) -> list[str]:
    """The checkpoints that a run may go on from; without any it begins anew. A collective call.

    Args:
        config: of the run.
        ranks: this process's place.
        choice: `auto`: all checkpoints of this run, the newest first; else the URL of a checkpoint.
    """
    offered: list[list[str]] = [[]]
    if ranks.is_first:
        offered = [_complete(list_checkpoints(checkpoints_url(config))) if choice == AUTO else [choice]]
    dist.broadcast_object_list(offered)
    return offered[0]


def _complete(entries: list[Entry]) -> list[str]:
    """Checkpoints whose best epoch, if they name one, has its checkpoint too: its save may have failed."""
    return [
        entry.url for entry in entries
        if not (entry.commit and entry.commit.best_step) or best_checkpoint(entries, entry.commit.best_step)
    ]  # fmt: skip


def return_to_best(state: TrainingState, step: int) -> None:
    """Put a run back to the end of its best epoch, after `step` steps; a collective call.

    Raises:
        DataError: its checkpoint is missing or damaged.
    """
    url = _best_url(state, step)
    if _try(state, url) is None:
        raise DataError(url, "is damaged, and holds the weights of the best epoch", f"Delete it. {_WITHOUT_BEST}")


def require_best(state: TrainingState, step: int) -> None:
    """Refuse to go on where the checkpoint of the best epoch so far is missing; a collective call.

    Raises:
        DataError: it is.
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
        raise DataError(folder, f"holds no checkpoint of step {step}, where the best epoch ended", _WITHOUT_BEST)
    return found[0]


def _try(state: TrainingState, url: str) -> Progress | None:
    """Load a checkpoint, if every rank finds its part whole."""
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
        _log.warning("Not going on from the checkpoint %s: %s", url, found)
    return None
