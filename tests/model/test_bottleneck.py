"""Label rows narrower than the encoder: the shape, start, gradient and learning rate of the map to them.

Oracle: a head of ordinary parameters with autograd, and plain PyTorch over all labels.
"""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.runs import make_encoder, small_config
from support.sharded_cascades import limits_of, make_batch

from cxml.config import OptimConfig
from cxml.errors import ConfigError
from cxml.model import build_encoder, build_model
from cxml.optim import parameter_groups
from cxml.parallel import Exchange, sharded_levels
from cxml.tree import LabelTree, plan_splits

LABELS, LEVELS, NARROW = 60, (3, 12), 8
TEXTS = [[0, 7], [59], [3, 21, 44], [12], [33, 34]]
ROWS = {
    "fp32": {},
    "bf16": {"weights": "bf16"},
    "bf16, a second moment per row": {"weights": "bf16-kahan", "second_moment": "row"},
    "fp8": {"weights": "fp8", "optimizer": "sgd"},
    "all labels": {"candidates": "all"},
    "all labels, fp8": {"candidates": "all", "weights": "fp8", "optimizer": "sgd"},
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return make_encoder(tmp_path_factory.mktemp("bottleneck"))


def config_of(folder, encoder, bottleneck, **head):
    model = {"bottleneck": bottleneck, "shortlist_sizes": (2, 4)}
    config = small_config(folder, encoder, model=model, tree={"level_sizes": LEVELS})
    return dataclasses.replace(config, head=dataclasses.replace(config.head, **head))


def batch_of_texts():
    batch = make_batch(TEXTS, len(TEXTS), limits_of([TEXTS]))
    ids = torch.randint(1000, 2000, (len(TEXTS), 6), generator=torch.Generator().manual_seed(1))
    return dataclasses.replace(batch, input_ids=ids, attention_mask=torch.ones_like(ids))


def tree():
    order = np.random.default_rng(0).permutation(LABELS).astype(np.int32)
    return LabelTree(order, plan_splits(LABELS, LEVELS).offsets)


def loss_of_all(model, weight, bias, batch):
    """Binary cross-entropy over all labels, mean over the labels and summed over texts, in plain torch."""
    feature = model.encoder.wide_features(batch.input_ids, batch.attention_mask)[-1]
    truth = torch.zeros(len(TEXTS), LABELS)
    for text, labels in enumerate(TEXTS):
        truth[text, model.get_buffer("label_positions")[labels]] = 1
    logits = feature @ model.encoder.bottleneck.weight.T @ weight.T + bias
    return F.binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1).sum()


@pytest.mark.parametrize("rows", ROWS)
def test_rows_that_update_themselves_give_the_map_the_gradient_of_dense_ones(tmp_path, encoder, rows):
    config = config_of(tmp_path, encoder, NARROW, **ROWS[rows])
    torch.manual_seed(0)
    exchange = Exchange(is_alone=True)
    model = build_model(config.model, tree(), make_levels=sharded_levels(tree(), exchange, config))
    dense = build_model(config.model, tree())
    dense.load_state_dict(model.state_dict(), strict=False)
    model.label_head.import_rows(torch.arange(LABELS), torch.randn(LABELS, NARROW), torch.randn(LABELS))
    (saved,) = model.label_head.export_rows()  # as their number format has them
    dense.label_head.import_rows(*(saved[name] for name in ("positions", "weight", "bias")))
    batch = batch_of_texts()
    model.label_head.schedule.begin_step(0.01, 0.9)
    total, by_level = model(batch)
    total.backward()
    if config.head.candidates == "all":
        expected = loss_of_all(dense, saved["weight"], saved["bias"], batch)
    else:
        losses, expected_by_level = dense(batch)
        torch.testing.assert_close(by_level, expected_by_level, rtol=1e-4, atol=1e-5)
        expected = losses
    expected.backward()
    found = model.encoder.bottleneck.weight.grad
    assert found.abs().max() > 0
    torch.testing.assert_close(found, dense.encoder.bottleneck.weight.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("levels", [1, 3])
def test_the_labels_feature_alone_is_narrow_and_as_long_on_average(tmp_path, encoder, levels):
    torch.manual_seed(0)
    config = config_of(tmp_path, encoder, NARROW)
    model = dataclasses.replace(config.model, taps=("2",) * levels, dropouts=(0.0,) * levels)
    built = build_encoder(model, levels).eval()
    vectors = torch.randn(4000, 32)
    narrow = built.bottleneck.weight.detach()
    assert float((vectors @ narrow.T).square().sum() / vectors.square().sum()) == pytest.approx(1, rel=0.05)
    torch.testing.assert_close(narrow @ narrow.T, torch.eye(NARROW) * 32 / NARROW, rtol=1e-4, atol=1e-4)
    batch = batch_of_texts()
    features = built(batch.input_ids, batch.attention_mask)
    assert [each.shape[1] for each in features] == list(built.feature_sizes) == [32] * (levels - 1) + [NARROW]


def test_the_map_learns_at_the_rate_of_the_classifiers(tmp_path, encoder):
    config = config_of(tmp_path, encoder, NARROW)
    model = build_model(config.model, tree(), make_levels=sharded_levels(tree(), Exchange(is_alone=True), config))
    optim = OptimConfig(encoder_lr=1e-5, classifier_lr=1e-2)
    (rate,) = [
        group["lr"]
        for group in parameter_groups(model, optim)
        if any(parameter is model.encoder.bottleneck.weight for parameter in group["params"])
    ]
    assert rate == 1e-2


def test_a_map_to_more_dimensions_than_the_encoder_has_is_refused(tmp_path, encoder):
    config = config_of(tmp_path, encoder, 33)
    with pytest.raises(ConfigError, match=r"model\.bottleneck = 33: is wider than the encoder, which has 32"):
        build_model(config.model, tree())
