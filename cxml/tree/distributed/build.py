"""The driver of a build on Ray."""

from __future__ import annotations

import dataclasses
import logging
from itertools import pairwise

import numpy as np

from cxml.config import Config
from cxml.console import counted
from cxml.data import ShardedDataset, data_url, read_label_table
from cxml.progress import track
from cxml.ray_cluster import joined_cluster
from cxml.tree.distributed.fleet import Fleet
from cxml.tree.distributed.journal import BuildJournal, Kind
from cxml.tree.distributed.parts import Job, label_work, part_bounds
from cxml.tree.distributed.rows import HeldRows
from cxml.tree.kmeans import initial_order
from cxml.tree.name_features import features_of_names
from cxml.tree.shape import SplitPlan
from cxml.tree.subtree import SUBTREE_ENTRIES
from cxml.tree.two_means import SAMPLE_FROM

_log = logging.getLogger(__name__)

_BRANCHES_PER_WORKER = 3  # approximately; enough to keep all workers busy to the end
_BRANCH_SLACK = 1.5  # nodes slightly larger than their share are not split again


def order_labels(
    config: Config, dataset: ShardedDataset, plan: SplitPlan, tree_url: str, fingerprint: str
) -> np.ndarray:
    """Carry out the splits of `plan` on Ray workers. Returns the label at each position, int32 [L].

    Resumes an interrupted build with the same fingerprint.

    Raises:
        DataError: the data set is broken.
        WorkerError: workers die repeatedly.
    """
    journal = BuildJournal(tree_url)
    if journal.begin(fingerprint):
        _log.info("Resuming the build at %s", tree_url)
    order = initial_order(dataset.manifest.num_labels, config.seed)
    splits = _apply_finished(plan.splits, journal, order)
    if not len(splits):
        return order
    job = make_job(config, dataset, tree_url)
    with joined_cluster() as cpus:
        count = config.tree.num_workers or cpus
        _tell_plan(job, count, dataset)
        with Fleet(job, count, cpus) as fleet:
            make_splits(job, fleet, splits, order)
    return order


def make_job(config: Config, dataset: ShardedDataset, tree_url: str) -> Job:
    """The inputs of the workers. Name features are computed here, because word weights depend on all names."""
    data, order = data_url(config), initial_order(dataset.manifest.num_labels, config.seed)
    bounds = part_bounds(label_work(data, dataset)[order])
    job = Job(data, tree_url, config.tree, config.seed, bounds, dataset.manifest.num_features)
    if config.tree.name_features == "none":
        return job
    names = read_label_table(data).words.texts
    features = features_of_names(config, names, data)[order]
    for part, (start, stop) in enumerate(pairwise(job.bounds.tolist())):
        BuildJournal(tree_url).save_part("names", part, features[start:stop])
    return dataclasses.replace(job, num_name_features=features.shape[1])


def make_splits(job: Job, fleet: Fleet, splits: np.ndarray, order: np.ndarray) -> None:
    """Make missing parts and carry out `splits`, int64 [n, 3]; `order`, int32 [L], is updated in place."""
    for kind in job.kinds:
        _make_parts(kind, job, fleet)
    rows = HeldRows(job, fleet, order)
    share = rows.num_entries / (_BRANCHES_PER_WORKER * len(fleet.actors))
    branches = _split_top(rows, splits, int(_BRANCH_SLACK * share))
    for _ in track(rows.finish(branches), len(branches), "Branches of the label tree"):
        pass


def _apply_finished(splits: np.ndarray, journal: BuildJournal, order: np.ndarray) -> np.ndarray:
    """Apply the splits of an earlier build to `order`. Returns the remaining splits, int64 [n, 3]."""
    done, branches = journal.read_splits(), journal.read_branches()
    is_left, at = np.ones(len(splits), np.bool_), 0
    while at < len(splits):
        start, _, end = splits[at].tolist()
        is_branch = (start, end) in branches
        is_split = (start, end) in done and not is_branch
        after = at + 1 if is_split else int(np.searchsorted(splits[:, 0], end))  # a branch covers all splits inside it
        if is_branch or is_split:
            labels = branches[start, end] if is_branch else done[start, end]
            if not np.array_equal(np.sort(labels), np.sort(order[start:end])):
                raise journal.wrong_labels(start, end)
            order[start:end] = labels
            is_left[at:after] = False
        at = after
    return splits[is_left]


def _make_parts(kind: Kind, job: Job, fleet: Fleet) -> None:
    missing = sorted(set(range(job.num_parts)) - BuildJournal(job.tree_url).finished_parts(kind))
    made = fleet.run_tasks(missing, lambda actor, part: actor.make_part.remote(kind, part))
    for _ in track(made, len(missing), "Parts of the label features"):
        pass


def _split_top(rows: HeldRows, splits: np.ndarray, branch_entries: int) -> list[np.ndarray]:
    """Split nodes with all workers until each fits one. Returns the splits of the branches, largest branch first."""
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


def _tell_plan(job: Job, count: int, dataset: ShardedDataset) -> None:
    """Log the distribution of the work, and the approximate peak memory of each worker's arrays."""
    work = label_work(job.data_url, dataset)[initial_order(job.num_labels, job.seed)]
    kept = np.minimum(work, job.settings.feature_top_k)
    largest_work, largest_kept = (int(np.add.reduceat(each, job.bounds[:-1]).max()) for each in (work, kept))
    walked = job.settings.walk_top_k * largest_kept if job.settings.walk_length else 0
    making = 20 * int(dataset.label_counts.sum()) + max(40 * largest_work, 16 * walked)
    share = int(kept.sum()) // count
    holding = 16 * share + int(24 * _BRANCH_SLACK * share / _BRANCHES_PER_WORKER)
    megabytes = (max(making, holding) + 28 * job.num_columns + 8 * job.num_labels) / 1e6
    _log.info(
        "Label tree on Ray: %s, %s in %s; arrays of text features take at most about %.0f MB "
        "per worker",
        counted(count, "worker"), counted(job.num_labels, "label"), counted(job.num_parts, "part"), megabytes,
    )  # fmt: skip
