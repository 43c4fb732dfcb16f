"""The driver of a build on Ray."""

from __future__ import annotations

import dataclasses
import logging
from itertools import pairwise

import numpy as np

from cxml.config import Config
from cxml.console import track
from cxml.data import ShardedDataset, data_url, read_labels
from cxml.ray_cluster import joined_cluster
from cxml.tree.distributed.fleet import Fleet
from cxml.tree.distributed.parts import Job, label_work, part_bounds
from cxml.tree.distributed.progress import Kind, Progress
from cxml.tree.distributed.rows import HeldRows
from cxml.tree.kmeans import initial_order
from cxml.tree.name_features import features_of_names
from cxml.tree.plan import SplitPlan
from cxml.tree.subtree import SUBTREE_ENTRIES
from cxml.tree.two_means import SAMPLE_FROM

_log = logging.getLogger(__name__)

_BRANCHES_PER_WORKER = 4  # enough that no worker waits long for the last one


def order_labels(
    config: Config, dataset: ShardedDataset, plan: SplitPlan, tree_url: str, fingerprint: str
) -> np.ndarray:
    """Carry out the splits of `plan` on Ray workers: the label at each position, int32 [L].

    Goes on where an earlier build with this fingerprint was stopped.

    Raises:
        DataError: the data set is broken.
        WorkerError: workers die again and again.
    """
    progress = Progress(tree_url)
    if progress.begin(fingerprint):
        _log.info("Going on with what an earlier build left at %s", tree_url)
    num_labels = dataset.manifest.num_labels
    order = initial_order(num_labels, config.seed)
    splits = _apply_finished(plan.splits, progress, order)
    if not len(splits):
        return order
    start_order = initial_order(num_labels, config.seed)
    work = label_work(data_url(config), dataset)[start_order]
    job = Job(
        data_url(config), tree_url, config.tree, config.seed, part_bounds(work), dataset.manifest.num_features
    )  # fmt: skip
    if config.tree.name_features != "none":
        job = dataclasses.replace(job, num_name_features=save_names(config, job, start_order, progress))
    with joined_cluster() as cpus:
        count = min(config.tree.num_workers or cpus, num_labels)
        blocks = [(num_labels * i // count, num_labels * (i + 1) // count) for i in range(count)]
        _tell_plan(job, work, count, dataset)
        with Fleet(job, blocks, cpus) as fleet:
            for kind in job.kinds:
                _make_parts(kind, job, fleet, progress)
            rows = HeldRows(job, fleet, order, blocks)
            branches = _split_top(rows, splits, rows.num_entries // (_BRANCHES_PER_WORKER * count))
            for _ in track(rows.finish(branches), len(branches), "Branches of the label tree"):
                pass
    return order


def _apply_finished(splits: np.ndarray, progress: Progress, order: np.ndarray) -> np.ndarray:
    """Bring `order` to where an earlier build got; the splits that are left, int64 [n, 3]."""
    done, branches = progress.read_splits(), progress.read_branches()
    is_left, at = np.ones(len(splits), np.bool_), 0
    while at < len(splits):
        start, _, end = splits[at].tolist()
        is_branch = (start, end) in branches
        after = int(np.searchsorted(splits[:, 0], end)) if is_branch else at + 1
        if is_branch or (start, end) in done:
            order[start:end] = branches[start, end] if is_branch else done[start, end]
            is_left[at:after] = False
        at = after
    return splits[is_left]


def save_names(config: Config, job: Job, order: np.ndarray, progress: Progress) -> int:
    """Keep features of the names in parts; made here, since words are weighed over all names. Returns their columns."""
    names, _ = read_labels(job.data_url)
    features = features_of_names(config, names, job.data_url)[order]
    for part, (start, stop) in enumerate(pairwise(job.bounds.tolist())):
        progress.save_part("names", part, features[start:stop])
    return features.shape[1]


def _make_parts(kind: Kind, job: Job, fleet: Fleet, progress: Progress) -> None:
    missing = sorted(set(range(job.num_parts)) - progress.finished_parts(kind))
    made = fleet.deal(missing, lambda actor, part: actor.make_part.remote(kind, part))
    for _ in track(made, len(missing), "Parts of the label features"):
        pass


def _split_top(rows: HeldRows, splits: np.ndarray, branch_entries: int) -> list[np.ndarray]:
    """Split nodes by all workers until they fit one; the splits of each branch that is left, largest branch first."""
    branches: list[tuple[int, np.ndarray]] = []
    at = 0
    while at < len(splits):
        start, middle, end = splits[at].tolist()
        entries = rows.entries(start, end)
        if entries <= max(branch_entries, SUBTREE_ENTRIES) or end - start < SAMPLE_FROM:
            after = int(np.searchsorted(splits[:, 0], end))
            branches.append((entries, splits[at:after]))
            at = after
        else:
            rows.split(start, middle, end)
            at += 1
    return [part for _, part in sorted(branches, key=lambda branch: -branch[0])]


def _tell_plan(job: Job, work: np.ndarray, count: int, dataset: ShardedDataset) -> None:
    """Log how the work is spread, and a bound of each worker's memory."""
    entries = np.minimum(work, job.settings.feature_top_k)
    rows = 8 * int(entries.sum()) // count
    making = 20 * int(dataset.label_counts.sum()) + 16 * int(np.add.reduceat(work, job.bounds[:-1]).max())
    holding = 2 * rows + 2 * 8 * int(entries.sum()) // (_BRANCHES_PER_WORKER * count)
    columns = 28 * job.num_columns
    megabytes = (max(making, holding) + columns) / 1e6
    _log.info(
        "Label tree on Ray: %d workers, %d labels in %d parts; the arrays of a worker take at most about %.0f MB",
        count, job.num_labels, job.num_parts, megabytes,
    )  # fmt: skip
