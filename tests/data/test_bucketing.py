"""Batches of texts of similar length: every text once, no small batch, little padding, the same for any world size.

Oracles: set arithmetic on the rows (hypothesis), a plain shuffle for the padding, one process against two and five.
"""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cxml.data import TrainLoader, cut, epoch_order
from cxml.data.order import bucket, smallest_batch


@settings(deadline=None, max_examples=150)
@given(rows=st.integers(1, 3000), batch_size=st.integers(1, 200), seed=st.integers(0, 9), longest=st.integers(1, 300))
def test_every_row_is_in_one_batch_and_no_batch_is_too_small(rows, batch_size, seed, longest):
    steps = -(-rows // batch_size)
    lengths = np.random.default_rng(seed).integers(1, longest + 1, rows)
    order, bounds = bucket(epoch_order(rows, seed, 0), lengths, steps, seed, 0)
    assert sorted(order) == list(range(rows))
    assert bounds[0] == 0
    assert bounds[-1] == rows
    assert len(bounds) == steps + 1
    assert np.diff(bounds).min() >= smallest_batch(rows, steps)


def padded(order, bounds, lengths):
    return sum(lengths[order[a:b]].max() * (b - a) for a, b in itertools.pairwise(bounds))


def test_batches_hold_about_equal_tokens_and_little_padding():
    rng = np.random.default_rng(0)
    lengths = np.minimum(3 + rng.geometric(0.05, 20_000), 128)  # most texts short, some long
    plain = epoch_order(20_000, 0, 0)
    order, bounds = bucket(plain, lengths, 625, 0, 0)
    tokens = np.add.reduceat(lengths[order], bounds[:-1])
    assert tokens.max() < 1.3 * tokens.mean()
    unbucketed = padded(plain, cut(20_000, 625), lengths)
    assert padded(order, bounds, lengths) < 1.05 * lengths.sum() < unbucketed / 2


def test_epochs_seeds_and_batches_are_shuffled():
    lengths = np.random.default_rng(0).integers(1, 100, 5000)
    one, bounds = bucket(epoch_order(5000, 0, 0), lengths, 100, 0, 0)
    other, _ = bucket(epoch_order(5000, 0, 1), lengths, 100, 0, 1)
    again, _ = bucket(epoch_order(5000, 0, 0), lengths, 100, 0, 0)
    assert (one == again).all()
    assert (one != other).any()
    means = np.add.reduceat(lengths[one], bounds[:-1]) / np.diff(bounds)
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.4  # long batches do not follow long ones


def test_global_batches_are_the_same_for_any_world_size(tmp_path, write_data):
    from cxml.data import ShardedDataset

    dataset = ShardedDataset(write_data(str(tmp_path), 400, shard_rows=100).url, "train")

    def batches(world_size):
        streams = [
            TrainLoader(dataset, batch_size=50, seed=1, rank=rank, world_size=world_size, accumulation=1, pad_id=0,
                        bucket_by_length=True).epoch(2)
            for rank in range(world_size)
        ]  # fmt: skip
        steps = [[batch for ranks in step for batch in ranks] for step in zip(*streams, strict=True)]
        for step in steps:
            assert {batch.global_size for batch in step} == {sum(batch.size for batch in step)}
        return [[row for batch in step for row in batch.input_ids[:, 1].tolist()] for step in steps]

    assert batches(1) == batches(2) == batches(5)
    assert sorted(itertools.chain(*batches(3))) == list(range(400))
