"""The learning-rate and beta1 schedule, and the parameter groups that it drives.

Oracles: the phases and rates that the paper states, and bounds for any length of run (hypothesis).
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cxml.config import OptimConfig
from cxml.optim import RowSchedule, Schedule, one_cycle, parameter_groups

PAPER = OptimConfig()  # one epoch of warm-up, three of decay


def at(epoch, epochs=15, config=PAPER):
    return one_cycle(round(epoch * 100), steps_per_epoch=100, epochs=epochs, config=config)


def test_the_learning_rate_has_the_three_phases_of_the_paper():
    assert at(0).lr_factor == pytest.approx(0.1)
    assert at(0.5).lr_factor == pytest.approx(0.55)
    assert at(1).lr_factor == at(6).lr_factor == at(11.99).lr_factor == 1
    assert at(13.5).lr_factor == pytest.approx((1 + 0.001) / 2)
    assert at(15).lr_factor == pytest.approx(0.001)


def test_beta1_mirrors_the_learning_rate():
    assert at(0).beta1 == pytest.approx(0.95)
    assert at(6).beta1 == pytest.approx(0.85)
    assert at(15).beta1 == pytest.approx(0.95)


def test_the_rise_is_a_cosine():
    expected = 0.1 + 0.9 * (1 - math.cos(math.pi * 0.25)) / 2
    assert at(0.25).lr_factor == pytest.approx(expected)


@given(epochs=st.integers(1, 20), warmup=st.floats(0, 10), decay=st.floats(0, 10), steps=st.integers(1, 50))
def test_no_length_of_run_leaves_the_range_or_jumps_at_its_end(epochs, warmup, decay, steps):
    config = OptimConfig(warmup_epochs=warmup, decay_epochs=decay)
    cycles = [one_cycle(s, steps_per_epoch=steps, epochs=epochs, config=config) for s in range(epochs * steps + 1)]
    assert all(0.001 - 1e-9 <= cycle.lr_factor <= 1 for cycle in cycles)
    assert all(0.85 - 1e-9 <= cycle.beta1 <= 0.95 + 1e-9 for cycle in cycles)
    if decay > 0.01:
        assert cycles[-1].lr_factor == pytest.approx(0.001)


def test_a_run_shorter_than_its_phases_shrinks_them_in_proportion():
    short = [at(epoch, epochs=2) for epoch in (0, 0.5, 2)]
    assert [cycle.lr_factor for cycle in short] == pytest.approx([0.1, 1, 0.001])


def test_the_schedule_keeps_the_groups_ratio_and_sets_their_beta1():
    optimizer = torch.optim.AdamW([{"params": [torch.zeros(1)], "lr": 1e-4}, {"params": [torch.zeros(1)], "lr": 1e-3}])
    schedule = Schedule(optimizer, steps_per_epoch=10, epochs=4, config=PAPER)
    for step in (0, 5, 20, 39):
        cycle = schedule.apply(step)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(
            [1e-4 * cycle.lr_factor, 1e-3 * cycle.lr_factor]
        )
        assert {group["betas"] for group in optimizer.param_groups} == {(cycle.beta1, 0.999)}


@pytest.mark.parametrize(("own_rate", "peak"), [(0.0, PAPER.classifier_lr), (3000.0, 3000.0)])
def test_rows_follow_the_same_cycle_at_the_classifiers_rate_or_their_own(own_rate, peak):
    rows = RowSchedule(decay=0.0, beta2=0.999, epsilon=1e-8, clip_row_norm=0.0)
    optimizer = torch.optim.AdamW([{"params": [torch.zeros(1)], "lr": 1e-4}])
    schedule = Schedule(optimizer, steps_per_epoch=10, epochs=4, config=PAPER, rows=rows, rows_lr=own_rate)
    for step in (0, 5, 20, 39):
        cycle = schedule.apply(step)
        assert rows.lr == pytest.approx(peak * cycle.lr_factor)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-4 * cycle.lr_factor)


def test_groups_keep_encoder_and_heads_apart_and_hold_every_trained_parameter_once():
    model = torch.nn.Module()
    model.encoder = torch.nn.Module()
    model.encoder.transformer = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3))
    model.encoder.projection = torch.nn.Linear(6, 3)
    model.head = torch.nn.Linear(3, 9)
    frozen = torch.nn.Parameter(torch.zeros(2, 2), requires_grad=False)
    model.frozen = frozen
    groups = parameter_groups(model, PAPER)
    settings = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    transformer = model.encoder.transformer
    assert settings == {
        id(transformer[0].weight): (1e-4, 0.05),
        id(transformer[0].bias): (1e-4, 0),
        id(transformer[1].weight): (1e-4, 0),
        id(transformer[1].bias): (1e-4, 0),
        id(model.encoder.projection.weight): (1e-4, 0.05),
        id(model.encoder.projection.bias): (1e-4, 0),
        id(model.head.weight): (1e-3, 0.005),
        id(model.head.bias): (1e-3, 0),
    }
    assert sum(len(group["params"]) for group in groups) == len(settings)


def test_a_model_without_trained_parameters_has_one_empty_group():
    model = torch.nn.Linear(3, 3).requires_grad_(False)
    torch.optim.AdamW(parameter_groups(model, PAPER)).step()
