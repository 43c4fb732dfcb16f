"""The rows of all labels in the fleet, and the splits that all workers make together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from cxml.tree.distributed.fleet import ROWS, Fleet
from cxml.tree.distributed.journal import BuildJournal
from cxml.tree.distributed.parts import Job
from cxml.tree.kmeans import initial_order, relabel_columns
from cxml.tree.kth_largest import key_of_bits
from cxml.tree.two_means import sample_size, seed_of_node


class HeldRows:
    """`order` is the order of the labels, int32 [L]; splits change it in place."""

    def __init__(self, job: Job, fleet: Fleet, order: np.ndarray) -> None:
        """Let the workers load their rows."""
        self.order = order
        self._job, self._fleet = job, fleet
        self._lows = np.array([low for low, _ in fleet.blocks])
        start_order = initial_order(job.num_labels, job.seed)
        self._start_position = np.empty_like(start_order)
        self._start_position[start_order] = np.arange(job.num_labels, dtype=np.int32)
        self._owner = np.empty(job.num_labels, np.uint16)
        self._owner[start_order] = np.repeat(np.arange(len(fleet.blocks)), [high - low for low, high in fleet.blocks])
        loaded = self._ask(lambda actor, _: actor.load.remote())
        relabel, self._columns = relabel_columns(np.sum([counts for counts, _ in loaded], axis=0))
        self._relabel = ray.put(relabel)
        self._entries = np.empty(job.num_labels, np.int64)
        self._entries[start_order] = np.concatenate([entries for _, entries in loaded])
        fleet.restore = self._arrange
        self._ask(self._arrange)

    @property
    def num_entries(self) -> int:
        """Entries of all rows."""
        return int(self._entries.sum())

    def entries(self, start: int, end: int) -> int:
        """Entries of the rows at positions start..end."""
        return int(self._entries[self.order[start:end]].sum())

    def split(self, start: int, middle: int, end: int) -> None:
        """Split the node of positions start..end, and store the new order of its labels."""
        proposals = self._retry(lambda: self._refine(start, middle, end))
        sides = [np.split(labels, [num_left]) for labels, num_left in proposals]
        self.order[start:end] = np.concatenate([left for left, _ in sides] + [right for _, right in sides])
        BuildJournal(self._job.tree_url).save_split(start, end, self.order[start:end])
        for done in [actor.reorder.remote() for actor in self._fleet.actors]:
            try:
                ray.get(done)
            except RayError as error:
                self._fleet.recover(error)  # the replacement loads the new order

    def finish(self, branches: Iterable[np.ndarray]) -> Iterator[None]:
        """Let single workers finish branches, each given by its splits. Yields after each one."""

        def submit(actor: ActorHandle, splits: np.ndarray) -> ray.ObjectRef:
            start, end = int(splits[0, 0]), int(splits[0, 2])
            return actor.finish.remote(splits, self.order[start:end], *self._pieces(start, end))

        for splits, labels in self._fleet.run_tasks(branches, submit):
            self.order[splits[0, 0] : splits[0, 2]] = labels
            yield

    def _refine(self, start: int, middle: int, end: int) -> list[tuple[np.ndarray, int]]:
        """Like `kmeans._refine_with_pool`, bit-identical, with rows and columns distributed over the workers."""
        actors, settings = self._fleet.actors, self._job.settings
        count, num_left = end - start, middle - start
        firsts, counts = self._places(start, end)
        direction = self._choose_start(start, middle, end)
        for actor, first, own in zip(actors, firsts, counts, strict=True):
            actor.begin.remote(first, own)
        lengths, mean_cosine = np.ones(2), -np.inf
        for _ in range(settings.max_iterations):
            uppers = ray.get([actor.score.remote(lengths, *direction) for actor in actors])
            threshold, ties_left = self._threshold(np.stack(uppers), num_left)
            returns = 1 + len(actors)
            sent = [
                actor.move.options(num_returns=returns).remote(threshold, ties)
                for actor, ties in zip(actors, ties_left, strict=True)
            ]
            totals = [actor.reduce_sums.remote(*[sums[1 + i] for sums in sent]) for i, actor in enumerate(actors)]
            squares = np.zeros(2)
            for blocks in ray.get(totals):
                for more in blocks:
                    squares += more
            lengths = np.sqrt(squares)
            last, mean_cosine = mean_cosine, lengths.sum() / count
            direction = [actor.direction_slice.remote(lengths) for actor in actors]
            moved = sum(ray.get([sums[0] for sums in sent]))
            if moved == 0 or mean_cosine - last < settings.tolerance * mean_cosine:
                break
        return ray.get([actor.propose.remote() for actor in actors])

    def _choose_start(self, start: int, middle: int, end: int) -> list[ray.ObjectRef]:
        """The direction from the node's first rows, in the workers' slices; one worker computes it."""
        count = end - start
        pieces = self._pieces(start, start + int(sample_size(count)))
        chooser = self._fleet.actors[0].choose_start.options(num_returns=len(self._fleet.actors))
        slices = chooser.remote(count, middle - start, int(seed_of_node(self._job.seed, start, end)), *pieces)
        return slices if isinstance(slices, list) else [slices]

    def _threshold(self, uppers: np.ndarray, num_left: int) -> tuple[np.float32, list[int]]:
        """The `num_left`-th largest key over all workers, and the most keys equal to it that go left at each worker.

        `uppers` int64 [workers, 2^16] counts the keys by the upper half of their bits.
        """
        upper, above = _bucket(uppers.sum(0), num_left)
        lowers = np.stack(ray.get([actor.count_lower_halves.remote(upper) for actor in self._fleet.actors]))
        lower, above_inside = _bucket(lowers.sum(0), num_left - above)
        ties = lowers[:, lower]
        ties_left = num_left - above - above_inside - (np.cumsum(ties) - ties)
        return key_of_bits(upper << 16 | lower), ties_left.tolist()

    def _pieces(self, start: int, end: int) -> list[ray.ObjectRef]:
        """The rows at positions start..end, one piece per worker."""
        firsts, counts = self._places(start, end)
        return [
            actor.copy_rows.options(concurrency_group=ROWS).remote(first, count)
            for actor, first, count in zip(self._fleet.actors, firsts, counts, strict=True)
        ]

    def _places(self, start: int, end: int) -> tuple[list[int], list[int]]:
        """The location of positions start..end: the first row and the number of rows at each worker."""
        before, inside = (
            np.bincount(self._owner[self.order[part]], minlength=len(self._lows))
            for part in (slice(start), slice(start, end))
        )
        return before.tolist(), inside.tolist()

    def _arrange(self, actor: ActorHandle, number: int) -> ray.ObjectRef:
        labels = self.order[self._owner[self.order] == number]
        arrangement = self._start_position[labels] - self._lows[number].astype(np.int32)
        return actor.arrange.remote(self._relabel, self._columns, arrangement, len(self._lows))

    def _ask(self, call: Callable[[ActorHandle, int], ray.ObjectRef]) -> list[Any]:
        """The results of all workers for an idempotent call."""
        return self._retry(lambda: ray.get([call(actor, number) for number, actor in enumerate(self._fleet.actors)]))

    def _retry(self, action: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever the action returns
        while True:
            try:
                return action()
            except RayError as error:
                self._fleet.recover(error)


def _bucket(counts: np.ndarray, rank: int) -> tuple[int, int]:
    """The bucket of the `rank`-th largest (1: the largest), and the count in the buckets above it."""
    at_least = np.cumsum(counts[::-1])
    place = int(np.searchsorted(at_least, rank))
    bucket = len(counts) - 1 - place
    return bucket, int(at_least[place] - counts[bucket])
