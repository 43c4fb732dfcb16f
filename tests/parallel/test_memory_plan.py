"""The plan's bytes of label rows, replicas included.

Oracles: the measured growth of a real process, and sizes computed by hand.
"""

import dataclasses
import multiprocessing

import psutil
import pytest
from support.runs import make_encoder, small_config

from cxml.config import HeadConfig, OptimConfig, TrainConfig
from cxml.data import StepFacts, data_url, train_texts, with_names
from cxml.optim import RowState
from cxml.parallel import Exchange, RowLayout, make_level, make_plan
from cxml.pipeline.plan import plan_run
from cxml.preparation import prepare

LABELS, WIDTH = 100_000, 256
STEPS = StepFacts(steps_per_epoch=1, texts=1, width=1.0, padding=0.0, mean_tokens=1.0, most_tokens=1)


def plan_of(head, world_size):
    state = RowState.bytes_by_state(
        WIDTH, optimizer=head.optimizer, weights=head.weights, second_moment=head.second_moment
    )
    return make_plan(
        {}, {}, TrainConfig(), steps=STEPS, world_size=world_size,
        sharded={"labels": LABELS}, row_state={"labels": state}, group_size=head.group_size,
    )  # fmt: skip


def grow(head, queue):
    import numpy as np

    def made(num_labels):
        offsets = np.arange(0, num_labels + 1, 8)
        rows = make_level(RowLayout.round_robin(offsets, 0, 2), WIDTH, Exchange(), head, OptimConfig())
        for tensor in vars(rows.rows).values():
            tensor.add_(0)  # memory counts once it is written to
        return rows

    made(80)  # loads the code
    before = psutil.Process().memory_info().rss
    kept = made(LABELS)
    queue.put(psutil.Process().memory_info().rss - before)
    del kept


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"weights": "bf16"},
        {"weights": "bf16-kahan", "second_moment": "row"},
        {"optimizer": "sgd"},
        {"weights": "fp8", "optimizer": "sgd"},
    ],
)  # fmt: skip
def test_a_process_grows_by_the_bytes_that_the_plan_says(settings):
    head = HeadConfig(**settings)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    worker = context.Process(target=grow, args=(head, queue))
    worker.start()
    grown = queue.get(timeout=120)
    worker.join()
    assert grown == pytest.approx(plan_of(head, 2).label_rows, rel=0.05)


def test_copies_of_the_rows_cost_each_group_all_of_them():
    assert plan_of(HeadConfig(group_size=2), 8).label_rows == plan_of(HeadConfig(), 2).label_rows


def test_rows_behind_a_bottleneck_are_planned_narrow_and_clusters_wide(tmp_path):
    encoder = make_encoder(tmp_path / "encoder")
    config = small_config(tmp_path, encoder, model={"bottleneck": 8}, train={"num_workers": 2})
    plan, facts = plan_run(dataclasses.replace(config, head=HeadConfig(shard_from=8)))
    assert plan.sharded == {"clusters of level 1": 32, "labels": facts.num_labels}
    assert [state["weight"] for state in plan.row_state.values()] == [4 * 32, 4 * 8]
    wide, narrow = (sum(state.values()) for state in plan.row_state.values())
    assert plan.label_rows == -(-(32 * wide + facts.num_labels * narrow) // 2)
    assert [level.width for level in plan.traffic] == [32, 8]
    full, _ = plan_run(dataclasses.replace(config, model=dataclasses.replace(config.model, bottleneck=0)))
    assert plan.parameters["encoder"] - full.parameters["encoder"] == 8 * 32
    assert plan.parameters["level 0 head (8 nodes)"] == 8 * 33


def test_the_printed_plan_names_what_each_state_of_a_label_takes():
    plan = plan_of(HeadConfig(weights="bf16"), 2)
    assert plan.row_state["labels"]["weight"] == 2 * WIDTH
    assert plan.row_state["labels"]["second"] == 4 * WIDTH
    cells = [cell for column in plan.table().columns for cell in column.cells]
    assert any(f"moment {4 * WIDTH:,}" in str(cell) for cell in cells)


@pytest.mark.parametrize(
    ("group_size", "environment", "ranks_per_replica"),
    [
        (0, {}, 8),
        (2, {}, 2),
        ("node", {}, 8),
        ("node", {"WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}, 4),
    ],
    ids=["all", "two", "node, on this machine", "node, under a launcher on two machines"],
)
def test_the_plan_counts_the_copies_of_the_rows_that_the_run_will_hold(
    tmp_path, monkeypatch, group_size, environment, ranks_per_replica
):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    head = HeadConfig(group_size=group_size, candidates="all")
    config = small_config(tmp_path, make_encoder(tmp_path / "encoder"), train={"num_workers": 8})
    plan, facts = plan_run(dataclasses.replace(config, head=head))
    bytes_per_label = sum(plan.row_state["labels"].values())
    assert plan.label_rows == -(-facts.num_labels * bytes_per_label // ranks_per_replica)
    assert plan.sharded == {"labels": facts.num_labels}


@pytest.mark.parametrize("is_prepared", [False, True])
def test_the_plan_knows_the_lengths_of_the_texts_and_names_that_are_trained_on(tmp_path, is_prepared):
    config = small_config(tmp_path / "run", make_encoder(tmp_path / "encoder"), train={"name_texts": r"(\D+)"})
    if is_prepared:
        prepare(config)
    _, facts = plan_run(config)
    prepare(config)
    url = data_url(config)
    trained_on = with_names(train_texts(url, 0.0), url, config.train.name_texts, config.data.max_length)
    assert sorted(facts.lengths) == sorted(trained_on.lengths)
    assert facts.num_texts == len(trained_on)
