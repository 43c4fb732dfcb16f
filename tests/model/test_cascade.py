"""The vectorised cascade computes the shortlists, losses, gradients and predictions of the paper's algorithm.

Oracle: `support.literal`, which follows the paper one text and one node at a time (hypothesis draws trees and batches).
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.literal import literal_forward, literal_predict
from support.rankings import check_ranking
from torch import nn

from cxml.data import Batch, BatchLimits
from cxml.model import CascadeXML
from cxml.model import cascade as cascade_module
from cxml.model import heads as heads_module
from cxml.model import shortlist as shortlist_module
from cxml.tree import LabelTree

HIDDEN = 5


class FixedFeatures(nn.Module):
    """Stands where the encoder stands, so that a test holds the features and reads their gradients."""

    def __init__(self, features):
        super().__init__()
        self.features = nn.ParameterList(features)
        self.feature_sizes = (HIDDEN,) * len(features)

    def forward(self, input_ids, attention_mask, windows=None):
        return list(self.features)


@st.composite
def trees(draw, max_levels=4):
    """Ragged trees: clusters of one label and of many, levels of one node and of many."""
    num_cluster_levels = draw(st.integers(0, max_levels - 1))
    num_nodes = draw(st.integers(1, 6))
    offsets = []
    for _ in range(num_cluster_levels):
        sizes = draw(st.lists(st.integers(1, 5), min_size=num_nodes, max_size=num_nodes))
        offsets.append(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))
        num_nodes = int(sum(sizes))
    seed = draw(st.integers(0, 1000))
    order = np.random.default_rng(seed).permutation(num_nodes).astype(np.int32)
    return LabelTree(label_order=order, offsets=tuple(offsets))


@st.composite
def cases(draw):
    tree = draw(trees())
    num_labels = tree.level_sizes[-1]
    label_lists = draw(
        st.lists(
            st.lists(st.integers(0, num_labels - 1), min_size=1, max_size=num_labels, unique=True).map(sorted),
            min_size=1,
            max_size=4,
        )
    )
    num_levels = len(tree.level_sizes)
    sizes = tuple(draw(st.lists(st.integers(1, 12), min_size=num_levels - 1, max_size=num_levels - 1)))
    weights = tuple(draw(st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=num_levels, max_size=num_levels)))
    return tree, label_lists, sizes, weights, draw(st.integers(0, 10_000))


def make_batch(label_lists):
    size = len(label_lists)
    return Batch(
        input_ids=torch.zeros(size, 1, dtype=torch.int64),
        attention_mask=torch.ones(size, 1, dtype=torch.int64),
        label_values=torch.tensor([label for labels in label_lists for label in labels]),
        label_offsets=torch.tensor([0, *np.cumsum([len(labels) for labels in label_lists])]),
        lengths=np.ones(size, np.int64),
        global_size=size,
        limits=BatchLimits(size, sum(map(len, label_lists)), max(map(len, label_lists))),
    )


def make_model(tree, batch_size, sizes, weights, seed, scoring="weighted", teacher_forcing=True):
    torch.manual_seed(seed)
    features = [torch.randn(batch_size, HIDDEN) for _ in tree.level_sizes]
    model = CascadeXML(
        FixedFeatures(features), tree,
        shortlist_sizes=sizes, level_weights=weights, scoring=scoring, teacher_forcing=teacher_forcing,
    )  # fmt: skip
    for head in heads_of(model):
        nn.init.normal_(head.weight)
        nn.init.normal_(head.bias)
    return model


def heads_of(model):
    """The level heads, coarse to fine; so few labels are one block."""
    (labels,) = model.label_head.blocks
    return [*model.cluster_heads, labels]


def weights_of(model):
    return [(head.weight, head.bias) for head in heads_of(model)]


def record_scored(model, monkeypatch):
    """Node -> logit of every text, as the model's own heads and loss see them."""
    nodes, scored = [], []
    for level, head in enumerate(heads_of(model)):
        everything = torch.arange(model.level_sizes[level])
        head.register_forward_hook(
            lambda _, inputs, __, all_nodes=everything: nodes.append(
                all_nodes.expand(len(inputs[0]), -1) if inputs[1] is None else inputs[1]
            )
        )
    original = shortlist_module.shortlist_loss

    def spy(logits, is_true, mask):
        rows = zip(nodes[-1], logits, mask, strict=True)
        scored.append([dict(zip(n[m].tolist(), x[m].detach().tolist(), strict=True)) for n, x, m in rows])
        return original(logits, is_true, mask)

    for module in (cascade_module, heads_module):
        monkeypatch.setattr(module, "shortlist_loss", spy)
    return scored


@settings(max_examples=150, deadline=None)
@given(cases(), st.booleans())
def test_shortlists_logits_loss_and_gradients_equal_the_literal_algorithm(case, teacher_forcing):
    tree, label_lists, sizes, weights, seed = case
    model = make_model(tree, len(label_lists), sizes, weights, seed, teacher_forcing=teacher_forcing)
    with pytest.MonkeyPatch.context() as monkeypatch:
        scored = record_scored(model, monkeypatch)
        loss, level_losses = model(make_batch(label_lists))
    loss.backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]

    model.zero_grad()
    expected = literal_forward(
        tree, list(model.encoder.features), weights_of(model), sizes, weights, label_lists, teacher_forcing
    )
    expected.loss.backward()

    for found, wanted in zip(scored, expected.scored, strict=True):
        assert [set(nodes) for nodes in found] == [set(nodes) for nodes in wanted]
        for found_logits, wanted_logits in zip(found, wanted, strict=True):
            for node, logit in wanted_logits.items():
                assert found_logits[node] == pytest.approx(logit.item(), abs=1e-4)
    assert loss.item() == pytest.approx(expected.loss.item(), rel=1e-5)
    assert level_losses.tolist() == pytest.approx(expected.level_losses, rel=1e-5)
    for gradient, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-6)


@settings(max_examples=150, deadline=None)
@given(cases(), st.sampled_from(["weighted", "level"]), st.integers(1, 12), st.sampled_from([1, 30, 1000]))
def test_predictions_equal_the_literal_algorithm(case, scoring, k, sureness):
    """Also of models whose probabilities are all 0 and 1 in float32, and with k above the width of every shortlist."""
    tree, label_lists, sizes, weights, seed = case
    model = make_model(tree, len(label_lists), sizes, weights, seed, scoring).eval()
    with torch.no_grad():
        for head in heads_of(model):
            head.bias.mul_(sureness)
        predictions = model(make_batch(label_lists), predict_k=k)
        for text in range(len(label_lists)):
            features = list(model.encoder.features)
            expected = literal_predict(tree, features, weights_of(model), sizes, scoring, text)
            for found, wanted in zip(predictions, expected, strict=True):
                place = {-1: -1} | {node: i for i, node in enumerate(wanted)}
                scores, own = np.array(list(wanted.values())).T
                nodes = [place[node] for node in found.nodes[text].tolist()]
                check_ranking(nodes, found.logits[text], scores, own, k)
                assert (found.scores[text].diff() <= 0).all()
                assert ((found.scores[text] >= 0) & (found.scores[text] <= 1)).all()
                assert (found.scores[text][found.nodes[text] < 0] == 0).all()


@settings(max_examples=100, deadline=None)
@given(cases())
def test_teacher_forcing_puts_every_positive_into_its_shortlist(case):
    tree, label_lists, sizes, weights, seed = case
    model = make_model(tree, len(label_lists), sizes, weights, seed)
    with pytest.MonkeyPatch.context() as monkeypatch:
        scored = record_scored(model, monkeypatch)
        model(make_batch(label_lists))
    positions = np.argsort(tree.label_order)
    for labels, last_level in zip(label_lists, scored[-1], strict=True):
        assert {int(positions[label]) for label in labels} <= set(last_level)


def test_a_text_with_hundreds_of_labels_keeps_them_all_beside_a_text_with_one():
    offsets = (np.arange(0, 401, 4), np.arange(0, 1201, 3))
    tree = LabelTree(label_order=np.random.default_rng(0).permutation(1200).astype(np.int32), offsets=offsets)
    label_lists = [sorted(np.random.default_rng(1).choice(1200, 300, replace=False).tolist()), [7]]
    model = make_model(tree, 2, (8, 16), (1.0, 1.0, 1.0), 0)
    loss, _ = model(make_batch(label_lists))
    expected = literal_forward(tree, list(model.encoder.features), weights_of(model), (8, 16), (1, 1, 1), label_lists)
    assert loss.item() == pytest.approx(expected.loss.item(), rel=1e-5)


def test_the_loss_of_a_batch_is_the_sum_over_its_parts():
    tree = LabelTree(label_order=np.arange(30, dtype=np.int32), offsets=(np.array([0, 2, 13, 30]),))
    label_lists = [[0, 5], [29], [3, 14, 15], [1]]
    model = make_model(tree, 4, (1,), (1.0, 1.0), 3)
    whole, _ = model(make_batch(label_lists))
    parts = []
    for start in (0, 2):
        part = make_model(tree, 2, (1,), (1.0, 1.0), 3)
        for mine, original in zip(heads_of(part), heads_of(model), strict=True):
            mine.load_state_dict(original.state_dict())
        for mine, original in zip(part.encoder.features, model.encoder.features, strict=True):
            mine.data = original.data[start : start + 2]
        parts.append(part(make_batch(label_lists[start : start + 2]))[0])
    assert whole.item() == pytest.approx(sum(part.item() for part in parts), rel=1e-6)
