"""Labels whose probabilities are all 1 or all 0 in float32 are ranked by their logits, in memory and in files.

Oracle: log odds in float64 by hand (hypothesis draws logits).
"""

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.ranked_heads import LOGITS
from support.rankings import check_ranking, joint

import cxml
from cxml import storage
from cxml.batch_prediction import FORMATS
from cxml.formats import TextChunk
from cxml.metrics import top_labels
from cxml.model.ranking import probabilities
from cxml.prediction import Predictions, read_scores, write_scores

K, SHIFTS = 9, (60.0, -200.0)


def shifted(run, shift, **options):
    """The run's model with all of its logits higher or lower."""
    parts = cxml.Predictor.from_checkpoint(run[0].output, **options).parts
    bias = parts.rows.bias + np.float32(shift)
    return cxml.Predictor(dataclasses.replace(parts, rows=dataclasses.replace(parts.rows, bias=bias)))


def by_hand(predictor, texts):
    """Own logits [N, L] and log odds of scores [N, L], float64, by label id."""
    model, parts = predictor.model, predictor.parts
    own, scores = [], []
    with torch.inference_mode():
        for text in texts:
            ids = torch.from_numpy(predictor._cascade.encode([text]).values.astype(np.int64))[None]
            features = model.encoder(ids, torch.ones_like(ids))
            leaf = model.cluster_heads[1](features[1], None)[0].numpy()
            logits = parts.rows.floats(slice(None)).astype(np.float64) @ features[2][0].double().numpy()
            own.append((logits + parts.rows.bias)[parts.tree.label_positions()])
            scores.append(joint(own[-1], leaf[parts.tree.cluster_of_label(1)]))
    return np.array(own), np.array(scores)


@pytest.mark.parametrize("rows", ["fp32", "bf16", "fp8", "int8"])
@pytest.mark.parametrize("shift", SHIFTS)
def test_predictions_explanations_and_exports_rank_by_logits(run, lines, tmp_path, shift, rows):
    texts = lines[:6]
    predictor = shifted(run, shift, rows=rows)
    predictor.save_pretrained(str(tmp_path / "exported"))
    exported = cxml.Predictor.from_pretrained(str(tmp_path / "exported"))
    own, scores = by_hand(predictor, texts)
    for each in (predictor, exported):
        found = each.predict(texts, K, beam=(8, 32))
        explained = each.explain(texts, K, beam=(8, 32))
        assert (np.diff(found.scores, axis=1) <= 0).all()
        assert ((found.scores >= 0) & (found.scores <= 1)).all()
        for row in range(len(texts)):
            check_ranking(found.labels[row], scores[row, found.labels[row]], scores[row], own[row], K, 1e-5, 1e-4)
            assert [label.label for label in explained[row]] == found.labels[row].tolist()
            for label in explained[row]:
                expected = probabilities(torch.tensor(own[row, label.label])).item()
                assert label.probability == pytest.approx(expected, rel=1e-3, abs=1e-30)


@pytest.mark.parametrize("shift", SHIFTS)
def test_a_restricted_predictor_ranks_by_logits(run, lines, shift):
    predictor = shifted(run, shift)
    allowed = np.arange(0, len(predictor.names), 5)
    found = predictor.restricted_to(allowed.tolist()).predict(lines[:4], K, beam=(8, 32))
    own, scores = by_hand(predictor, lines[:4])
    for row in range(4):
        places = np.searchsorted(allowed, found.labels[row])
        assert (allowed[places] == found.labels[row]).all()
        kept = scores[row, allowed]
        check_ranking(places, kept[places], kept, own[row, allowed], K, 1e-5, 1e-4)


def test_a_power_of_the_inverse_propensity_ranks_hopeless_labels_by_the_product(run, lines):
    plain = shifted(run, -200.0)
    weighed = shifted(run, -200.0, propensity_ranking=1.0)
    candidates = plain.predict(lines[:4], 100, beam=(8, 32)).labels
    _, scores = by_hand(plain, lines[:4])
    found = weighed.predict(lines[:4], K, beam=(8, 32))
    explained = weighed.explain(lines[:4], K, beam=(8, 32))
    for row in range(4):
        of_product = scores[row, candidates[row]] + np.log(weighed.parts.label_weights[candidates[row]])
        best = candidates[row][np.argsort(-of_product, kind="stable")[:K]]
        assert found.labels[row].tolist() == best.tolist()
        assert [label.label for label in explained[row]] == best.tolist()


RANKED = st.lists(LOGITS, min_size=0, max_size=12).map(lambda logits: sorted(logits, reverse=True))


@settings(max_examples=150)
@given(st.lists(RANKED, min_size=1, max_size=4), st.integers(0, 100))
def test_files_of_scores_keep_the_order_of_labels_whose_scores_are_equal(tmp_path_factory, rows, seed):
    rng = np.random.default_rng(seed)
    num_labels, width = 15, max(map(len, rows))
    labels, logits = np.full((len(rows), width), -1, np.int64), np.full((len(rows), width), -np.inf, np.float32)
    for row, values in enumerate(rows):
        labels[row, : len(values)] = rng.permutation(num_labels)[: len(values)]
        logits[row, : len(values)] = values
    scores = probabilities(torch.from_numpy(logits)).numpy()
    assert (np.diff(scores, axis=1) <= 0).all()
    folder = tmp_path_factory.mktemp("scores")
    write_scores(str(folder / "scores.npz"), labels, scores, num_labels)
    predictions = Predictions(labels, scores, [f"label {i}" for i in range(num_labels)])
    chunk = TextChunk(0, ["text"] * len(rows), None)
    manifest = {"format": "cxml-predictions", "version": 1, "parts": 1, "texts": len(rows), "k": width}
    for form, write in FORMATS.items():
        storage.write_atomic(str(folder / form / f"part-00000.{form}"), write(chunk, predictions, None))
        storage.write_json(str(folder / form / "manifest.json"), manifest)
    for url in (folder / "scores.npz", *(folder / form for form in FORMATS)):
        found = read_scores(str(url), len(rows), num_labels)
        assert top_labels(found, width).tolist() == labels.tolist()
        assert (found.data > 0).all()
        np.testing.assert_allclose(
            np.take_along_axis(found.toarray(), np.maximum(labels, 0), 1)[labels >= 0], scores[labels >= 0], atol=1e-5
        )


def test_no_cut_off_makes_more_places_than_labels(run, lines, tmp_path):
    predictor = cxml.Predictor.from_checkpoint(run[0].output)
    num_labels, some = len(predictor.names), list(range(0, 80, 9))
    weighed = cxml.Predictor.from_checkpoint(run[0].output, propensity_ranking=0.5)
    for each, most in (
        (predictor, num_labels), (predictor.restricted_to(some), len(some)), (weighed, num_labels),
        (weighed.restricted_to(some), len(some)),
    ):  # fmt: skip
        for k in (most + 1, 10**8, 10**20):
            found = each.predict(lines[:2], k, excluded={1: some[:2]})
            assert found.labels.shape == found.scores.shape == (2, most)
            assert not np.isin(found.labels[1], some[:2]).any()
            assert len(each.explain(lines[:1], k)[0]) <= most


def test_the_command_takes_any_number_of_labels_per_text(run, lines, tmp_path):
    from cxml.commands import predict

    (tmp_path / "texts.txt").write_text("\n".join(lines[:3]))
    num_labels = len(cxml.Predictor.from_checkpoint(run[0].output).names)
    for form in FORMATS:
        output = tmp_path / form
        words = [run[0].output, str(tmp_path / "texts.txt"), "--output", str(output), "--format", form]
        assert predict.main([*words, "--k", "100000000"]) == 0
        assert top_labels(read_scores(str(output), 3, num_labels), 10**8).shape == (3, num_labels)
        assert json.loads((output / "manifest.json").read_text())["texts"] == 3
