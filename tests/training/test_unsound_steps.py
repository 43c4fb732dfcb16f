"""A step that does not count changes no cluster level, wherever its fault is, and no recorded loss.

Oracle: the rows before the step, bit for bit, and the losses of the steps that count.
"""

import copy

import pytest
import torch
from support.sharded_cascades import SGD, FixedFeatures, build_sharded, limits_of, make_batch, make_problem
from torch import nn

from cxml.checkpoint import Progress
from cxml.config import HeadConfig
from cxml.parallel import Ranks, StepCheck
from cxml.parallel.plain_engine import PlainEngine
from cxml.training import RunLength, StepLimit, loop, train_step

CPU = torch.device("cpu")
RANKS = Ranks(rank=0, world_size=1, local_rank=0, device=CPU)
LEVELS = 4


class ScaledFeatures(FixedFeatures):
    """Features that come of a weight, which the engine needs."""

    def __init__(self):
        super().__init__(LEVELS)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, input_ids, attention_mask, windows=None):
        return [values * self.scale for values in self.features]


def training(head):
    """An engine around a cascade whose levels are sharded, the levels, and a function that takes a step."""
    problem = make_problem(7, (3, 11, 40, 120), (5,))
    model, levels = build_sharded(problem, head)
    model.encoder = ScaledFeatures()
    engine = PlainEngine(
        model, torch.optim.AdamW(model.parameters(), fused=True), StepCheck(CPU),
        world_size=1, accumulation=1, clipping=0.0, is_bf16=False,
    )  # fmt: skip
    labels = problem.labels[0]

    def step(number, level=None, value=0.0):
        features = [torch.from_numpy(values.copy()) for values in problem.features[0][0]]
        if level is not None:
            features[level][0, 0] = value
        model.encoder.features = features
        levels[-1].schedule.begin_step(1e-2, 0.9)
        return train_step(engine, [make_batch(labels[0], 5, limits_of(labels))], RANKS, number)

    return engine, levels, step


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e25])
@pytest.mark.parametrize("level", range(LEVELS))
@pytest.mark.parametrize("head", [HeadConfig(shard_from=1), SGD, HeadConfig(shard_from=1, clip_global_norm=1e9)])
def test_a_fault_in_the_features_of_any_level_changes_no_row_of_any(head, level, value):
    _, levels, step = training(head)
    step(1)
    before = [copy.deepcopy(vars(own.rows)) for own in levels]
    assert not step(2, level, value).any()
    for own, saved in zip(levels, before, strict=True):
        for name, values in vars(own.rows).items():
            assert torch.equal(values, saved[name]), name
    assert step(3).all()


def test_the_mean_loss_of_a_record_is_that_of_the_steps_that_counted():
    engine, _, step = training(HeadConfig(shard_from=1))
    recorder = loop._Recorder(engine, RANKS, StepLimit(RunLength.of(10)), Progress(), None)
    batch = make_batch([[0]], 1, limits_of([[[0]]]))
    first = step(1)
    recorder.add(first, [batch])
    recorder.add(step(2, 0, float("nan")), [batch])
    assert recorder.progress(2, is_epoch_end=False).unrecorded_steps == 1
    report = recorder.report(2, 0.2, 1.0)
    assert report.skipped_steps == 1
    assert report.level_losses == pytest.approx(tuple(first.tolist()))
    recorder.add(step(3, 0, float("nan")), [batch])
    assert not recorder.num_counted
