"""The training and evaluation loaders: every text once, the same steps for any world size, exact resumption.

Oracles: one process against several, a full epoch against the rest after a resume, and the written rows (hypothesis).
"""

import itertools
import threading

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cxml.data import EvalLoader, ShardedDataset, TrainLoader
from cxml.errors import ConfigError, StaleArtefactError

ROWS = 95


@pytest.fixture(scope="module")
def data(tmp_path_factory, write_data):
    return write_data(str(tmp_path_factory.mktemp("data")), ROWS, shard_rows=10)


@pytest.fixture(scope="module")
def dataset(data):
    return ShardedDataset(data.url, "train")


def loader(
    dataset, *, batch_size=16, seed=5, rank=0, world_size=1, accumulation=1, bucket_by_length=False, batch_tokens=0
):
    return TrainLoader(
        dataset, batch_size=batch_size, seed=seed, rank=rank, world_size=world_size, accumulation=accumulation,
        pad_id=0, bucket_by_length=bucket_by_length, batch_tokens=batch_tokens,
    )  # fmt: skip


def rows_of(batch):
    """The rows of a batch, which the second token tells."""
    return batch.input_ids[:, 1].tolist()


def global_batches(dataset, epoch, **settings_):
    """Rows of each optimiser step, in the order of ranks and micro-batches."""
    world_size = settings_.get("world_size", 1)
    streams = [loader(dataset, rank=rank, **settings_).epoch(epoch) for rank in range(world_size)]
    return [
        [row for micro_batches in ranks for batch in micro_batches for row in rows_of(batch)]
        for ranks in zip(*streams, strict=True)
    ]


@settings(deadline=None, max_examples=25)
@given(
    batch_size=st.integers(4, 120), world_size=st.integers(1, 4), accumulation=st.integers(1, 3),
    epoch=st.integers(0, 3),
)  # fmt: skip
def test_global_batches_are_the_same_for_any_world_size_and_accumulation(
    dataset, batch_size, world_size, accumulation, epoch
):
    assume(ROWS // -(-ROWS // batch_size) >= world_size * accumulation)
    alone = global_batches(dataset, epoch, batch_size=batch_size)
    spread = global_batches(dataset, epoch, batch_size=batch_size, world_size=world_size, accumulation=accumulation)
    assert spread == alone
    assert len(alone) == -(-ROWS // batch_size)
    assert sorted(itertools.chain(*alone)) == list(range(ROWS))


@settings(deadline=None, max_examples=25)
@given(
    batch_tokens=st.integers(120, 400), world_size=st.integers(1, 4), accumulation=st.integers(1, 2),
    epoch=st.integers(0, 3),
)  # fmt: skip
def test_steps_of_a_token_budget_are_the_same_for_any_world_size_and_accumulation(
    dataset, batch_tokens, world_size, accumulation, epoch
):
    alone = global_batches(dataset, epoch, batch_tokens=batch_tokens)
    spread = global_batches(dataset, epoch, batch_tokens=batch_tokens, world_size=world_size, accumulation=accumulation)
    assert spread == alone
    assert sorted(itertools.chain(*alone)) == list(range(ROWS))
    lengths = dataset.lengths
    assert all(len(rows) * lengths[rows].max() <= batch_tokens for rows in alone)


@pytest.mark.parametrize("batch_tokens", [0, 150])
@settings(deadline=None, max_examples=25)
@given(first_step=st.integers(0, 6), world_size=st.integers(1, 3), epoch=st.integers(0, 3))
def test_resuming_at_a_step_gives_the_batches_that_remained(dataset, batch_tokens, first_step, world_size, epoch):
    rule = {"accumulation": 2, "batch_tokens": batch_tokens}
    for rank in range(world_size):
        plan = loader(dataset, rank=rank, world_size=world_size, **rule)
        whole = [[rows_of(batch) for batch in step] for step in plan.epoch(epoch)]
        again = loader(dataset, rank=rank, world_size=world_size, **rule)
        assert [[rows_of(batch) for batch in step] for step in again.epoch(epoch, first_step)] == whole[first_step:]


def test_batches_hold_the_written_tokens_and_labels(data, dataset):
    for step in loader(dataset, world_size=2, rank=1, accumulation=2).epoch(0):
        assert len(step) == 2
        for batch in step:
            for i, row in enumerate(rows_of(batch)):
                length = int(batch.attention_mask[i].sum())
                assert batch.input_ids[i, :length].tolist() == data.input_ids[row]
                assert not batch.input_ids[i, length:].any()
                assert not batch.attention_mask[i, length:].any()
                start, stop = batch.label_offsets[i : i + 2].tolist()
                assert batch.label_values[start:stop].tolist() == data.labels[row]
            assert batch.input_ids.shape[1] == max(len(data.input_ids[row]) for row in rows_of(batch))
            tensors = (batch.input_ids, batch.attention_mask, batch.label_values, batch.label_offsets)
            assert {tensor.dtype for tensor in tensors} == {torch.int64}


def test_global_size_counts_the_texts_of_the_whole_step(dataset):
    sizes = [0] * 6
    for rank in range(3):
        for step, micro_batches in enumerate(loader(dataset, rank=rank, world_size=3, accumulation=2).epoch(0)):
            sizes[step] += sum(batch.size for batch in micro_batches)
            declared = {batch.global_size for batch in micro_batches}
            assert declared <= {15, 16}
    assert sorted(sizes) == [15, 16, 16, 16, 16, 16]


def test_epochs_are_shuffled_apart(dataset):
    assert global_batches(dataset, 0) != global_batches(dataset, 1)


def test_more_parts_than_texts_in_a_batch_are_refused(dataset):
    with pytest.raises(ConfigError, match="95 texts make batches of 3, too few for 2 processes x 2 micro-batches"):
        loader(dataset, batch_size=4, world_size=2, accumulation=2)


def test_an_unreadable_row_surfaces_in_the_training_loop(dataset, monkeypatch):
    def broken(self, indices):
        raise OSError("lost the disk")

    monkeypatch.setattr(ShardedDataset, "gather", broken)
    with pytest.raises(OSError, match="lost the disk"):
        next(loader(dataset).epoch(0))


def test_abandoning_an_epoch_stops_its_thread(dataset):
    stream = loader(dataset).epoch(0)
    next(stream)
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "cxml-prefetch"]


@settings(deadline=None, max_examples=25)
@given(
    step=st.integers(0, 6), worlds=st.tuples(st.integers(1, 4), st.integers(1, 4)), bucketed=st.booleans(),
    epoch=st.integers(0, 2),
)  # fmt: skip
def test_resuming_on_another_world_size_delivers_exactly_the_rows_not_yet_seen(dataset, step, worlds, bucketed, epoch):
    before, after = worlds
    if bucketed:  # the smallest batch may have one text, too few for two processes
        before = after = 1
    seen, states = [], []
    for rank in range(before):
        first = loader(dataset, rank=rank, world_size=before, bucket_by_length=bucketed)
        stream = first.epoch(epoch)
        seen += [row for _ in range(step) for batch in next(stream) for row in rows_of(batch)]
        stream.close()
        states.append(first.state_dict())
    if step == 0:
        states = [{**state, "epoch": epoch} for state in states]
    assert all(state == states[0] for state in states)
    rest = []
    for rank in range(after):
        second = loader(dataset, rank=rank, world_size=after, accumulation=1, bucket_by_length=bucketed)
        position = second.load_state_dict(states[0])
        expected = (epoch + 1, 0) if step == second.steps_per_epoch else (epoch, step)
        assert position == expected
        if position[0] == epoch:
            rest += [row for micro in second.epoch(*position) for batch in micro for row in rows_of(batch)]
    assert sorted(seen + rest) == list(range(ROWS))


def test_a_state_is_a_few_plain_values_and_refused_for_another_order(dataset):
    state = loader(dataset).state_dict()
    assert all(isinstance(value, (int, str)) for value in state.values())
    for change in ({"seed": 6}, {"batch_size": 17}, {"bucket_by_length": True}, {"batch_tokens": 200}):
        with pytest.raises(StaleArtefactError, match=next(iter(change))):
            loader(dataset, **change).load_state_dict(state)
    with pytest.raises(StaleArtefactError, match="data = 'other'"):
        loader(dataset).load_state_dict({**state, "data": "other"})


def test_a_state_from_before_there_was_a_token_budget_is_taken_by_a_run_without_one(dataset):
    state = loader(dataset).state_dict()
    del state["batch_tokens"]
    assert loader(dataset).load_state_dict(state) == (0, 0)
    with pytest.raises(StaleArtefactError, match="batch_tokens = 0, but this run has 200"):
        loader(dataset, batch_tokens=200).load_state_dict(state)


def test_a_text_above_the_token_budget_has_a_step_of_its_own_and_is_told_of(dataset, caplog):
    longest = int(dataset.lengths.max())
    told = dataset.lengths.tolist().count(longest)
    steps = global_batches(dataset, 0, batch_tokens=longest - 1)
    assert f"{told} texts are longer than train.batch_tokens {longest - 1}" in caplog.text
    alone = [rows for rows in steps if longest in dataset.lengths[rows]]
    assert len(alone) == told
    assert all(len(rows) == 1 for rows in alone)


def test_a_token_budget_too_small_for_all_processes_is_refused_with_one_that_is_enough(dataset):
    with pytest.raises(ConfigError, match=r"train\.batch_tokens = 30: .* or set it to (\d+) or more") as caught:
        loader(dataset, batch_tokens=30, world_size=4)
    enough = int(str(caught.value).split("set it to ")[1].split()[0])
    assert enough == 4 * dataset.lengths.max()
    loader(dataset, batch_tokens=enough, world_size=4)


def test_to_moves_every_tensor(dataset):
    batch = next(loader(dataset).epoch(0))[0].to("meta")
    assert {
        t.device.type for t in (batch.input_ids, batch.attention_mask, batch.label_values, batch.label_offsets)
    } == {"meta"}
    assert batch.global_size == 15


@settings(deadline=None, max_examples=25)
@given(batch_size=st.integers(1, 120), world_size=st.integers(1, 100))
def test_evaluation_visits_every_text_once_over_the_ranks(dataset, batch_size, world_size):
    seen, counts = [], set()
    for rank in range(0, world_size):
        ranks_loader = EvalLoader(dataset, batch_size=batch_size, rank=rank, world_size=world_size, pad_id=0)
        batches = list(ranks_loader)
        assert len(batches) == len(ranks_loader)
        counts.add(len(batches))
        for indices, batch in batches:
            assert rows_of(batch) == (indices.tolist() or [0])
            assert batch.size <= batch_size
            seen += indices.tolist()
    assert sorted(seen) == list(range(ROWS))
    assert len(counts) == 1, "ranks that predict together need as many batches"


def test_evaluation_pads_only_to_neighbours_in_length(data, dataset):
    batches = [batch for _, batch in EvalLoader(dataset, batch_size=10, rank=0, world_size=1, pad_id=0)]
    by_length = np.sort([len(row) for row in data.input_ids])[::-1]
    firsts = np.cumsum([0] + [batch.size for batch in batches[:-1]])
    assert [batch.input_ids.shape[1] for batch in batches] == by_length[firsts].tolist()
