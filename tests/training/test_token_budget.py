"""A run with a token budget takes the same steps on one process and on two, and after a stop.

Oracles: the run on one process without a stop, and the padding computed from the step order.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import checkpointed, off, train_each
from support.runs import make_encoder, prepare_with_tree, read_losses, small_config

from cxml.checkpoint import list_checkpoints
from cxml.data import ShardedDataset, StepOrder, StepRule
from cxml.parallel import run_workers

BUDGET, STOP = 900, 5
TOKENS = {"train": {"batch_tokens": BUDGET, "epochs": 1}}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("budget")
    config = small_config(folder, make_encoder(folder / "encoder"), train={"epochs": 1})
    prepare_with_tree(config)
    return config


@pytest.fixture(scope="module")
def runs(base):
    """One process through; one that is stopped and goes on; two through; two that go on where one was stopped."""
    folder = Path(base.output)
    stopped = checkpointed(base, folder / "stopped", **TOKENS)
    alone = [(off(checkpointed(base, folder / "one", **TOKENS)), None, "auto"), (stopped, STOP, "auto")]
    assert run_workers(train_each, ([*alone, (stopped, None, "auto")],), 1) == [True, False, True]
    entries = list_checkpoints(str(folder / "stopped" / "checkpoints"))
    begun = next(entry.url for entry in entries if entry.step == STOP)
    together = [(off(checkpointed(base, folder / "two", **TOKENS)), None, "auto"),
                (checkpointed(base, folder / "two go on", **TOKENS), None, begun)]  # fmt: skip
    assert run_workers(train_each, (together,), 2) == [True, True]
    return folder


def test_two_processes_take_the_steps_of_one(runs):
    np.testing.assert_allclose(read_losses(runs / "two"), read_losses(runs / "one"), rtol=2e-4)


def test_a_stopped_run_goes_on_as_if_it_had_not_been(runs):
    assert read_losses(runs / "stopped") == read_losses(runs / "one")


def test_two_processes_go_on_in_the_middle_of_an_epoch_of_one(runs):
    expected = read_losses(runs / "one")[STOP:]
    np.testing.assert_allclose(read_losses(runs / "two go on"), expected, rtol=2e-4)


@pytest.mark.parametrize("name", ["one", "two"])
def test_records_have_the_padding_and_the_steps_that_the_order_makes(base, runs, name):
    lengths = ShardedDataset(f"{base.output}/data", "train").lengths
    order = StepOrder(lengths, StepRule(batch_size=1, batch_tokens=BUDGET), base.seed)
    records = [json.loads(line) for line in (runs / name / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(1, order.steps_per_epoch + 1))
    rows, bounds = order.epoch(0)
    for record, start, stop in zip(records, bounds[:-1], bounds[1:], strict=True):
        own = np.array_split(lengths[rows[start:stop]], [(stop - start) // 2] if name == "two" else [])
        padded = sum(len(part) * part.max() for part in own)
        assert record["padding"] == pytest.approx(1 - lengths[rows[start:stop]].sum() / padded, abs=1e-4)
        assert record["gradient_norm"] > 0
