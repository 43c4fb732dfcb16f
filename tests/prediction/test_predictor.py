"""`Predictor`: metrics, beams, exclusions, restricted labels, explanations and packed rows.

Oracles: the run's evaluation, products over dense matrices, and the unrestricted predictor.
"""

import copy
import dataclasses
import json
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

import cxml
from cxml.data import ShardedDataset, read_label_table
from cxml.errors import ConfigError, DataError
from cxml.metrics import metric_sums
from cxml.prediction import PackedRows


@pytest.fixture(scope="module")
def predictor(run):
    return cxml.Predictor.from_checkpoint(run[0].output, batch_size=64)


@pytest.fixture(scope="module")
def texts(run):
    dataset = ShardedDataset(f"{run[0].output}/data", "test")
    return dataset.texts(np.arange(len(dataset)))


def test_predictions_from_texts_have_the_metrics_of_the_evaluation(run, predictor, texts):
    config, report = run
    labels = ShardedDataset(f"{config.output}/data", "test").labels_csr()
    predictions = predictor.predict(texts, k=5)
    metrics = metric_sums(predictions.labels, labels, (1, 3, 5)).result()
    assert metrics["P@1"] > 5  # a model that has learnt something
    assert metrics == {name: pytest.approx(report["levels"][-1][name], abs=1e-9) for name in metrics}


def test_a_result_names_its_labels(run, predictor, texts):
    names = read_label_table(f"{run[0].output}/data").names
    predictions = predictor.predict(texts[:3], k=4)
    for row in range(3):
        for place, best in enumerate(predictions[row]):
            assert best.label == predictions.labels[row, place]
            assert best.name == names[best.label]
            assert best.score == pytest.approx(predictions.scores[row, place])
    assert len(predictions) == 3


def test_a_wide_beam_finds_the_best_labels_of_all(predictor, texts):
    everything = predictor.predict(texts[:20], k=7, beam=(8, 32))
    model = predictor.model
    with torch.inference_mode():
        tokens = predictor._cascade.encode(texts[:20])
        for row in range(20):
            ids = torch.from_numpy(tokens.slice(row, row + 1).values.astype(np.int64))[None]
            features = model.encoder(ids, torch.ones_like(ids))
            leaf = torch.sigmoid(model.cluster_heads[1](features[1], None))[0].numpy()
            weight = torch.from_numpy(predictor.parts.rows.floats(slice(None)))
            own = torch.sigmoid(weight @ features[2][0] + torch.from_numpy(predictor.parts.rows.bias)).numpy()
            order = predictor.parts.tree.label_order
            scores = own * leaf[predictor.parts.tree.cluster_of_label(1)[order]]
            best = np.argsort(-scores, kind="stable")[:7]
            np.testing.assert_allclose(everything.scores[row], scores[best], rtol=1e-4)


def test_a_narrow_beam_scores_fewer_labels(predictor, texts):
    narrow = predictor.predict(texts[:30], k=200, beam=(1, 1))
    wide = predictor.predict(texts[:30], k=200, beam=(8, 32))
    assert ((narrow.labels >= 0).sum(1) < (wide.labels >= 0).sum(1)).all()


def test_excluded_labels_make_room_for_the_next_best(predictor, texts):
    free = predictor.predict(texts[:5], k=6)
    held = predictor.predict(texts[:5], k=4, excluded={1: free.labels[1, :2].tolist(), 3: [int(free.labels[3, 0])]})
    assert held.labels[0].tolist() == free.labels[0, :4].tolist()
    assert held.labels[1].tolist() == free.labels[1, 2:6].tolist()
    assert held.labels[3].tolist() == free.labels[3, 1:5].tolist()


def test_a_restricted_predictor_ranks_the_allowed_labels_with_their_scores(predictor, texts):
    everything = predictor.predict(texts[:25], k=2000, beam=(8, 32))
    allowed = np.arange(0, len(predictor.names), 7)
    few = predictor.restricted_to([*allowed.tolist(), predictor.names[0]])
    found = few.predict(texts[:25], k=9, beam=(8, 32))
    assert np.isin(found.labels, allowed).all()
    for row in range(25):
        kept = np.isin(everything.labels[row], allowed)
        np.testing.assert_allclose(found.scores[row], everything.scores[row][kept][:9], rtol=1e-4)
    assert few.explain(texts[:1], k=1)[0][0].name == predictor.names[found.labels[0, 0]]


def test_an_explained_score_is_the_product_of_its_parts(predictor, texts):
    predictions = predictor.predict(texts[:8], k=3)
    for row, labels in enumerate(predictor.explain(texts[:8], k=3)):
        assert [label.label for label in labels] == predictions.labels[row].tolist()
        for label in labels:
            assert [node.level for node in label.path] == [0, 1]
            assert label.score == pytest.approx(label.probability * label.path[-1].probability, rel=1e-5)
            tree = predictor.parts.tree
            assert [tree.cluster_of_label(node.level)[label.label] for node in label.path] == [
                node.node for node in label.path
            ]


def test_order_and_company_of_texts_do_not_change_their_labels(predictor, texts):
    together = predictor.predict(texts[:40], k=3)
    backwards = predictor.predict(texts[:40][::-1], k=3)
    alone = predictor.predict([texts[11]], k=3)
    np.testing.assert_allclose(together.scores, backwards.scores[::-1], atol=1e-5)
    np.testing.assert_allclose(together.scores[11], alone.scores[0], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "field"), [({"k": 0}, "k ="), ({"beam": (3,)}, "beam ="), ({"beam": (0, 2)}, "beam =")]
)
def test_impossible_wishes_are_refused(predictor, options, field):
    with pytest.raises(ConfigError, match=field):
        predictor.predict(["a text"], **options)


def test_unknown_labels_are_refused(predictor):
    for labels in (["no such label"], [10**6], [-1]):
        with pytest.raises(ConfigError, match="not a label of this model"):
            predictor.restricted_to(labels)
    with pytest.raises(ConfigError, match="is empty"):
        predictor.restricted_to([])


@pytest.mark.parametrize(
    "labels",
    [
        [["a name"], ["a name", "other"]], (["a name"], ("a name", "other")), np.array(["a name", "other"]),
        np.array([["a name", "other"]] * 2), pd.Series([["a name"], []], index=[5, 5]), pa.array(["a name", "other"]),
        pa.chunked_array([[["a name"]], [["other"]]]), (own for own in ["a name", {"other"}]), [3, np.int64(4)],
    ],
)  # fmt: skip
def test_labels_to_evaluate_with_come_in_any_container_of_names(predictor, labels):
    names = predictor.names
    assert predictor.evaluate(["a text"] * 2, labels, ks=(1,))["P@1"] == 0
    assert not {"a name", "other", "3", "4"} & set(names)


@pytest.mark.parametrize(
    ("labels", "ks", "problem"),
    [
        (None, (1,), r"labels = None: must be a flat sequence"),
        ("a name", (1,), r"labels .* is one string"),
        (pd.DataFrame({"labels": ["a"]}), (1,), r"labels .* must be a flat sequence"),
        ([None], (1,), r"labels\[0\] = None: is neither a label name"),
        ([float("nan")], (1,), r"labels\[0\] = nan: is neither a label name"),
        ([b"a name"], (1,), r"labels\[0\] .* is neither a label name"),
        ([["a name", None]], (1,), r"labels\[0\] .* contains a NoneType"),
        ([["a name"], ["other"]], (1,), r"2 texts, but there are 1 texts"),
        (["a name"], (), r"ks .* is empty"),
        (["a name"], 5, r"ks = 5: must be a flat sequence"),
    ],
)
def test_impossible_labels_and_cutoffs_of_an_evaluation_are_refused(predictor, labels, ks, problem):
    with pytest.raises(ConfigError, match=problem):
        predictor.evaluate(["a text"], labels, ks=ks)


def test_a_printed_result_does_not_list_the_names_of_all_labels(predictor):
    found = predictor.predict(["a text"], k=1)
    assert "scores" in repr(found)
    assert not any(name in repr(found) for name in found.names)


def test_no_texts_are_no_predictions(predictor):
    assert predictor.predict([], k=3).labels.shape == (0, 3)


def test_a_place_without_a_model_is_named(tmp_path):
    with pytest.raises(DataError, match="contains no trained model"):
        cxml.Predictor.from_checkpoint(str(tmp_path))


@pytest.mark.parametrize(("rows", "most"), [("bf16", 2**-8), ("fp8", 2**-4), ("int8", 0.5 / 127)])
def test_packed_rows_are_off_by_no_more_than_half_a_unit(rows, most):
    generator = np.random.default_rng(0)
    weight = generator.normal(size=(500, 24)).astype(np.float32)
    weight[3] = 0
    packed = PackedRows(weight, np.zeros(0, np.float32), np.zeros(500, np.float32)).to(rows)
    assert packed.weight.itemsize == {"bf16": 2}.get(rows, 1)
    largest = np.abs(weight).max(axis=1, keepdims=True)
    unit = largest if rows == "int8" else np.abs(weight) + (largest * 2**-13 if rows == "fp8" else 0)
    assert (np.abs(packed.floats(slice(None)) - weight) <= most * unit * 1.001 + 1e-12).all()


@pytest.mark.parametrize("rows", ["bf16", "fp8", "int8"])
def test_packed_rows_predict_what_their_own_weights_say(run, predictor, texts, rows):
    packed = cxml.Predictor.from_checkpoint(run[0].output, rows=rows)
    unpacked = PackedRows(packed.parts.rows.floats(slice(None)).copy(), np.zeros(0, np.float32), packed.parts.rows.bias)
    floats = cxml.Predictor(
        type(packed.parts)(**{**vars(cxml.Predictor.from_checkpoint(run[0].output).parts), "rows": unpacked})
    )
    np.testing.assert_allclose(packed.predict(texts, 5).scores, floats.predict(texts, 5).scores, atol=1e-5)
    assert np.abs(packed.predict(texts, 5).scores - predictor.predict(texts, 5).scores).max() > 0


@pytest.mark.parametrize("rows", ["fp32", "fp8", "int8"])
def test_without_shortlists_the_best_of_all_labels_are_found(run, texts, rows):
    parts = cxml.Predictor.from_checkpoint(run[0].output, rows=rows).parts
    head = dataclasses.replace(parts.config.head, candidates="all")
    parts = dataclasses.replace(parts, config=dataclasses.replace(parts.config, head=head))
    predictor = cxml.Predictor(parts)
    features = predictor.embed(texts[:12])
    scores = 1 / (1 + np.exp(-(features @ parts.rows.floats(slice(None)).T + parts.rows.bias)))
    best = np.argsort(-scores, axis=1, kind="stable")[:, :6]
    found = predictor.predict(texts[:12], k=6)
    np.testing.assert_allclose(found.scores, np.take_along_axis(scores, best, axis=1), rtol=1e-4)
    assert (found.labels[:, 0] == parts.tree.label_order[best[:, 0]]).mean() > 0.9  # but for near ties
    explained = predictor.explain(texts[:1], k=1)[0][0]
    assert explained.probability == pytest.approx(explained.score)


def test_two_predictors_of_the_same_parts_keep_their_own_rows(predictor, texts):
    before = predictor.predict(texts[:5]).scores
    zeros = PackedRows(np.zeros_like(predictor.parts.rows.weight), np.zeros(0, np.float32), predictor.parts.rows.bias)
    other = cxml.Predictor(dataclasses.replace(predictor.parts, rows=zeros))
    assert np.abs(other.predict(texts[:5]).scores - before).max() > 0.01
    np.testing.assert_array_equal(predictor.predict(texts[:5]).scores, before)


def test_stored_and_copied_predictors_predict_the_same_after_a_prediction(predictor, texts):
    for original in (predictor, predictor.restricted_to(range(0, len(predictor.names), 3))):
        expected = original.predict(texts[:20], k=4)
        for copied in (pickle.loads(pickle.dumps(original)), copy.deepcopy(original)):
            found = copied.predict(texts[:20], k=4)
            np.testing.assert_array_equal(found.labels, expected.labels)
            np.testing.assert_array_equal(found.scores, expected.scores)


def test_a_predictor_with_mapped_rows_is_not_copied_into_memory(predictor, tmp_path):
    predictor.save_pretrained(tmp_path / "exported")
    mapped = cxml.Predictor.from_pretrained(tmp_path / "exported", memory_map=True)
    for attempt in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="load it without memory_map"):
            attempt(mapped)


def test_a_restricted_predictor_is_exported_with_its_own_labels(predictor, texts, tmp_path):
    few = predictor.restricted_to(list(range(3, 90, 5)))
    few.save_pretrained(str(tmp_path / "few"))
    again = cxml.Predictor.from_pretrained(str(tmp_path / "few"))
    assert list(again.names) == [predictor.names[label] for label in range(3, 90, 5)]
    found, expected = again.predict(texts[:9], 4), few.predict(texts[:9], 4)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)
    assert found[2][0].name == expected[2][0].name


def test_the_library_imports_and_predicts_without_ray_and_deepspeed(run, predictor, texts, tmp_path):
    predictor.save_pretrained(str(tmp_path / "exported"))
    program = f"""
import sys
for name in ("ray", "deepspeed", "sklearn", "omikuji", "faiss", "simple_icd_10_cm"):
    sys.modules[name] = None
import cxml
assert "torch" not in sys.modules
import cxml.batch_prediction, cxml.export, cxml.predict, cxml.similar
found = cxml.Predictor.from_pretrained({str(tmp_path / "exported")!r}).predict([{texts[0]!r}], k=3)
print(found.labels.tolist())
"""
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == predictor.predict([texts[0]], k=3).labels.tolist()
