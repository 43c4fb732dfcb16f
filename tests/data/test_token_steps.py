"""Steps with a token budget: every text once, never above the budget, nearly full, the same for any number of ranks.

Oracles: the padded size of each step computed from the lengths (hypothesis), and the batches that the loaders deliver.
"""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxml.data import ShardedDataset, StepOrder, StepRule, TrainLoader, cut, epoch_order, micro_batch_shapes, step_facts
from cxml.data.order import bucket
from cxml.data.token_steps import TokenSteps


def lengths_of(seed, rows, longest):
    return np.random.default_rng(seed).integers(1, longest + 1, rows)


def skewed(rows):
    """Most texts short, some long."""
    return np.minimum(3 + np.random.default_rng(0).geometric(0.05, rows), 128)


@settings(deadline=None, max_examples=200)
@given(
    rows=st.integers(1, 3000), longest=st.integers(1, 300), budget=st.integers(1, 5000), seed=st.integers(0, 9),
    epoch=st.integers(0, 5),
)  # fmt: skip
def test_every_text_is_in_one_step_and_no_step_of_several_is_above_the_budget(rows, longest, budget, seed, epoch):
    lengths = lengths_of(seed, rows, longest)
    steps = StepOrder(lengths, StepRule(batch_size=1, batch_tokens=budget), seed)
    order, bounds = steps.epoch(epoch)
    assert sorted(order) == list(range(rows))
    assert bounds[0] == 0
    assert bounds[-1] == rows
    assert len(bounds) == steps.steps_per_epoch + 1
    sizes = np.diff(bounds)
    assert sizes.min() == steps.smallest >= 1
    for start, stop in itertools.pairwise(bounds):
        padded = lengths[order[start:stop]].max() * (stop - start)
        assert padded <= budget or stop - start == 1


@settings(deadline=None, max_examples=100)
@given(
    rows=st.integers(40, 800), budget=st.integers(2000, 6000), parts=st.integers(1, 8), seed=st.integers(0, 9),
)  # fmt: skip
def test_the_micro_batches_of_a_step_are_together_within_the_budget(rows, budget, parts, seed):
    lengths = lengths_of(seed, rows, 200)
    steps = StepOrder(lengths, StepRule(batch_size=1, batch_tokens=budget), seed)
    order, bounds = steps.epoch(0)
    texts, widths = micro_batch_shapes(lengths[order], bounds, parts)
    for step, (start, stop) in enumerate(itertools.pairwise(bounds)):
        own = np.array_split(lengths[order[start:stop]], cut(stop - start, parts)[1:-1])
        assert texts[step].tolist() == [len(part) for part in own]
        assert widths[step].tolist() == [part.max() for part in own]
    assert (texts * widths).sum(1).max() <= budget


def test_steps_are_nearly_full_and_hold_little_padding():
    lengths = skewed(50_000)
    order, bounds = StepOrder(lengths, StepRule(batch_size=1, batch_tokens=4096), 0).epoch(0)
    texts, widths = micro_batch_shapes(lengths[order], bounds, 1)
    padded = (texts * widths)[:, 0]
    assert padded.mean() > 0.9 * 4096
    assert np.quantile(padded, 0.02) > 0.8 * 4096
    assert padded.sum() < 1.05 * lengths.sum()


def test_the_fewest_tokens_of_a_step_are_nearer_to_the_most_than_with_as_many_steps_by_length():
    lengths = skewed(50_000)
    by_tokens = StepOrder(lengths, StepRule(batch_size=1, batch_tokens=4096), 0)
    order, bounds = bucket(epoch_order(50_000, 0, 0), lengths, by_tokens.steps_per_epoch, 0, 0)
    spread = {}
    for name, (rows, ends) in {"tokens": by_tokens.epoch(0), "length": (order, bounds)}.items():
        texts, widths = micro_batch_shapes(lengths[rows], ends, 1)
        padded = (texts * widths)[:, 0]
        spread[name] = padded.max() / padded.mean()
    assert spread["tokens"] < 1.1 < spread["length"]


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_processes_get_as_many_texts_each_in_nearly_all_steps(ranks):
    lengths = skewed(50_000)
    _, bounds = StepOrder(lengths, StepRule(batch_size=1, batch_tokens=8 * 4096), 0).epoch(0)
    assert (np.diff(bounds) % ranks == 0).mean() > 0.9


def test_epochs_mix_the_texts_of_a_class_anew_and_steps_of_all_lengths_take_turns():
    lengths = skewed(20_000)
    steps = TokenSteps.plan(lengths, 2048)
    (first, bounds), (second, _) = (steps.arrange(epoch_order(20_000, 0, e), lengths, 0, e) for e in (0, 1))
    together = [{frozenset(rows) for rows in np.split(each, bounds[1:-1])} for each in (first, second)]
    assert len(together[0] & together[1]) < 0.01 * len(bounds)
    means = np.add.reduceat(lengths[first], bounds[:-1]) / np.diff(bounds)
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.4


def test_texts_of_equal_length_are_all_in_one_draw():
    """With one length, steps are as those of a plain shuffle: any text may meet any other of its class, by chance."""
    lengths = np.full(1000, 10)
    order, bounds = StepOrder(lengths, StepRule(batch_size=1, batch_tokens=100), 0).epoch(3)
    assert set(np.diff(bounds)) == {10}
    assert (order != np.arange(1000)).mean() > 0.9


@pytest.mark.parametrize(
    "rule", [{}, {"bucket_by_length": True}, {"batch_tokens": 300}], ids=["plain", "length", "tokens"]
)
@pytest.mark.parametrize(("world_size", "accumulation"), [(1, 1), (1, 3), (3, 1)])
def test_the_plan_of_the_steps_is_what_the_loaders_of_all_ranks_hand_over(
    tmp_path, write_data, rule, world_size, accumulation
):
    dataset = ShardedDataset(write_data(str(tmp_path), 400, shard_rows=100).url, "train")
    parts = world_size * accumulation
    planned = step_facts(dataset.lengths, StepRule(batch_size=32, **rule), seed=3, parts=parts, num_texts=400)
    streams = [
        TrainLoader(dataset, batch_size=32, seed=3, rank=rank, world_size=world_size, accumulation=accumulation,
                    pad_id=0, **rule).epoch(0)
        for rank in range(world_size)
    ]  # fmt: skip
    steps = [[batch for ranks in step for batch in ranks] for step in zip(*streams, strict=True)]
    padded = np.array([sum(batch.input_ids.numel() for batch in step) for step in steps])
    real = sum(int(batch.lengths.sum()) for step in steps for batch in step)
    assert planned.steps_per_epoch == len(steps)
    assert planned.padding == pytest.approx(1 - real / padded.sum())
    assert (planned.mean_tokens, planned.most_tokens) == (pytest.approx(padded.mean()), padded.max())
    assert planned.width == pytest.approx(padded.sum() / 400)
    assert real == dataset.lengths.sum()
