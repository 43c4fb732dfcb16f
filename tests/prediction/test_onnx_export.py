"""The ONNX export predicts as the predictor, without cxml and PyTorch.

Oracle: `Predictor` against onnxruntime, for trees, row formats and poolings of every kind.
"""

import dataclasses
import itertools
import json
import re
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from support.runs import make_encoder
from support.untrained import untrained_parts

from cxml import storage
from cxml.commands import export
from cxml.data import Ragged, lengths_to_offsets
from cxml.errors import CxmlError, DataError
from cxml.prediction import Predictor, onnx_cascade, onnx_encoder, write_exported
from cxml.prediction.onnx_export import finish_model, write_onnx
from cxml.tree import LabelTree

NUM_LABELS = 60
LONGEST = 32
SIZES = (([1], 1), ([LONGEST], 5), ([1, 7, LONGEST, 2, 1, 19], 5), ([3, 4], 2 * NUM_LABELS))
"""Lengths of the texts of a batch, and labels wanted."""
TEXTS = ["closed fracture of the left wrist", "anaemia", "", "iron deficiency " * 40]
NAMES = [f"label {i}\n“{i}”" for i in range(NUM_LABELS)]

MODELS = {
    "one level": ((4,), "fp32", {"shortlist_sizes": (2,)}),
    "two levels, scored by the label alone, of the first token":
        ((3, 9), "bf16", {"shortlist_sizes": (2, 3), "scoring": "level", "pooling": "cls", "bottleneck": 8}),
    "three uneven levels, with joined layers":
        ((2, 5, 14), "int8", {"shortlist_sizes": (1, 3, 4), "taps": ("0+1", "1", "1+2", "2")}),
    "a shortlist of all clusters": ((2, 7), "fp8", {"shortlist_sizes": (64, 64)}),
    "all labels": ((4,), "fp32", {"candidates": "all"}),
    "all labels, narrow": ((4,), "int8", {"candidates": "all", "bottleneck": 8, "pooling": "cls"}),
    "all labels, without clusters": ((), "fp8", {"candidates": "all"}),
    "no clusters to choose from": ((), "bf16", {}),
}  # fmt: skip


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return make_encoder(tmp_path_factory.mktemp("encoder"))


def uneven_tree(level_sizes):
    """Clusters of one child and more over labels in no order."""
    generator = np.random.default_rng(1)
    sizes = [*level_sizes, NUM_LABELS]
    cuts = [generator.choice(np.arange(1, below), size - 1, replace=False)
            for size, below in itertools.pairwise(sizes)]  # fmt: skip
    offsets = tuple(np.array([0, *sorted(inner), below]) for inner, below in zip(cuts, sizes[1:], strict=True))
    return LabelTree(generator.permutation(NUM_LABELS).astype(np.int32), offsets)


def make_parts(folder, encoder, level_sizes, rows, options):
    options = {"shortlist_sizes": (4,) * len(level_sizes), **options}
    parts = untrained_parts(folder / "run", encoder, uneven_tree(level_sizes), NAMES, **options)
    return dataclasses.replace(parts, rows=parts.rows.to(rows))


def run_onnx(folder, tokens, k):
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    ids, mask = padded(tokens)
    return session.run(["labels", "scores"], {"input_ids": ids, "attention_mask": mask, "k": np.array([k])})


def padded(tokens):
    """Token ids and mask, int64 [B, T] each."""
    mask = np.arange(tokens.lengths.max()) < tokens.lengths[:, None]
    ids = np.zeros(mask.shape, np.int64)
    ids[mask] = tokens.values
    return ids, mask.astype(np.int64)


def random_tokens(lengths):
    values = np.random.default_rng(2).integers(0, 30522, sum(lengths), dtype=np.int32)
    return Ragged(values, lengths_to_offsets(np.array(lengths)))


def assert_predicts_as(folder, predictor):
    for lengths, k in SIZES:
        tokens = random_tokens(lengths)
        expected = predictor.predict_tokens(tokens, k)
        labels, scores = run_onnx(folder, tokens, k)
        np.testing.assert_allclose(scores, expected.scores, rtol=1e-4, atol=1e-9)
        np.testing.assert_array_equal(labels, expected.labels)


def assert_ranks_as_the_predictor(folder, parts, sizes=SIZES):
    """Compare what is added to the encoder alone: exporting an encoder takes seconds."""
    widths = parts.model.encoder.feature_sizes[-1 if onnx_cascade.scores_all_labels(parts) else 0 :]
    names = [f"features_{level}" for level in range(len(widths))]
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", width])
              for name, width in zip(names, widths, strict=True)]  # fmt: skip
    begun = helper.make_model(
        helper.make_graph([], "ranking", inputs, []), opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    )
    finish_model(begun, names, folder / "model.onnx", parts)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    predictor = Predictor(parts, device="cpu", precision="fp32")
    for lengths, k in sizes:
        tokens = random_tokens(lengths)
        expected = predictor.predict_tokens(tokens, k)
        with torch.no_grad():
            features = parts.model.encoder(*(torch.from_numpy(values) for values in padded(tokens)))[-len(names) :]
        given = {name: values.numpy() for name, values in zip(names, features, strict=True)}
        labels, scores = session.run(["labels", "scores"], {**given, "k": np.array([k])})
        np.testing.assert_allclose(scores, expected.scores, rtol=1e-4, atol=1e-9)
        np.testing.assert_array_equal(labels, expected.labels)
    return expected


def write(url, parts):
    write_onnx(url, parts, Predictor(parts, device="cpu", precision="fp32").predict_tokens)


@pytest.mark.parametrize("model", MODELS)
def test_the_graph_ranks_as_the_predictor(tmp_path, encoder, model):
    assert_ranks_as_the_predictor(tmp_path, make_parts(tmp_path, encoder, *MODELS[model]))


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_onnxruntime_predicts_as_the_predictor(tmp_path, encoder, model):
    parts = make_parts(tmp_path, encoder, *MODELS[model])
    write(str(tmp_path / "onnx"), parts)
    assert_predicts_as(tmp_path / "onnx", Predictor(parts, device="cpu", precision="fp32"))


@pytest.mark.parametrize("options", [{}, {"candidates": "all"}], ids=["shortlist", "all"])
def test_label_weights_rank_in_the_model_too(tmp_path, encoder, options):
    parts = make_parts(tmp_path, encoder, (3, 9), "fp32", options)
    weights = np.random.default_rng(3).uniform(0.01, 1, NUM_LABELS).astype(np.float32)
    weights[7] = 1
    assert_ranks_as_the_predictor(tmp_path, dataclasses.replace(parts, label_weights=weights))


def test_labels_under_a_certain_cluster_keep_the_order_of_their_own_logits(tmp_path, encoder):
    parts = make_parts(tmp_path, encoder, (3,), "fp32", {})
    rows = dataclasses.replace(parts.rows, bias=np.linspace(50, 90, NUM_LABELS, dtype=np.float32))
    predicted = assert_ranks_as_the_predictor(tmp_path, dataclasses.replace(parts, rows=rows), [([5], 8)])
    assert len(set(predicted.scores[0].tolist())) < 8, "the scores are to be equal in float32"


@pytest.fixture(scope="module")
def written(tmp_path_factory, encoder):
    """Parts of a model that was trained in bf16, and the folder of its exports."""
    folder = tmp_path_factory.mktemp("written")
    parts = make_parts(folder, encoder, (3, 9), "bf16", {"bottleneck": 8})
    parts.model.bfloat16()
    write_exported(str(folder / "cxml"), parts)
    assert export.main([str(folder / "cxml"), str(folder / "onnx"), "--form", "onnx",
                        "--encoder-program", str(folder / "encoder.onnx")]) == 0  # fmt: skip
    return parts, folder


def test_the_example_predicts_where_neither_cxml_nor_torch_can_be_imported(written):
    parts, folder = written
    script = (
        "import json, runpy, sys\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        assert name.partition('.')[0] not in ('cxml', 'torch', 'transformers', 'onnx'), name\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from pathlib import Path\n"
        "example = runpy.run_path(sys.argv[1])\n"
        "texts = json.loads(sys.argv[2])\n"
        "model = example['Model'](Path(sys.argv[1]).parent)\n"
        "assert model.predict([]) == []\n"
        "print(json.dumps(model.predict(texts, 4)))\n"
    )
    command = [sys.executable, "-c", script, str(folder / "onnx/predict.py"), json.dumps(TEXTS)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    expected = Predictor(parts, device="cpu", precision="fp32").predict(TEXTS, 4)
    for row, found in enumerate(json.loads(done.stdout)):
        assert [name for name, _ in found] == [label.name for label in expected[row]]
        np.testing.assert_allclose([score for _, score in found], expected.scores[row], rtol=1e-4)


def test_the_encoder_alone_gives_the_features_of_every_level(written):
    parts, folder = written
    session = onnxruntime.InferenceSession(folder / "encoder.onnx", providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["features_0", "features_1", "features_2"]
    predictor = Predictor(parts, device="cpu", precision="fp32")
    ids = np.array([predictor._cascade.encode(TEXTS[:1]).values], np.int64)
    last = session.run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)})[-1]
    np.testing.assert_allclose(last, predictor.embed(TEXTS[:1]), atol=1e-5)


def test_the_manifest_names_every_file_and_the_card_how_to_use_them(written):
    _, folder = written
    files = json.loads((folder / "onnx/manifest.json").read_text())["files"]
    assert set(files) == {"model.onnx", "labels.json", "tokenizer.json", "predict.py", "README.md"}
    assert "python predict.py" in (folder / "onnx/README.md").read_text()


@pytest.mark.slow
def test_a_model_of_some_labels_at_a_url_predicts_these_alone(tmp_path, written):
    parts, _ = written
    few = Predictor(parts, device="cpu", precision="fp32").restricted_to([3, 17, 18, 41, 59])
    few.save_onnx("memory://onnx/few")
    (tmp_path / "onnx").mkdir()
    for file in ("model.onnx", "labels.json", "manifest.json"):
        (tmp_path / "onnx" / file).write_bytes(storage.read_bytes(f"memory://onnx/few/{file}"))
    expected = few.predict_tokens(random_tokens([4, 9]), 5)
    labels, scores = run_onnx(tmp_path / "onnx", random_tokens([4, 9]), 5)
    names = json.loads((tmp_path / "onnx/labels.json").read_text())
    np.testing.assert_allclose(scores, expected.scores, rtol=1e-4, atol=1e-9)
    assert [[names[label] for label in row] for row in labels] == [[NAMES[label] for label in row]
                                                                  for row in expected.labels]  # fmt: skip


@pytest.mark.slow
def test_weights_too_large_for_one_file_lie_beside_it(tmp_path, written, monkeypatch):
    parts, folder = written
    monkeypatch.setattr(onnx_encoder, "_MOST_BYTES", 1000)
    write(str(tmp_path / "onnx"), parts)
    data = (tmp_path / "onnx/model.onnx.data").stat().st_size
    assert data > parts.rows.num_bytes
    assert (tmp_path / "onnx/model.onnx").stat().st_size < (folder / "onnx/model.onnx").stat().st_size - data // 2
    assert "model.onnx.data" in json.loads((tmp_path / "onnx/manifest.json").read_text())["files"]
    assert_predicts_as(tmp_path / "onnx", Predictor(parts, device="cpu", precision="fp32"))


@pytest.mark.slow
def test_a_model_that_scores_otherwise_is_not_left_there(tmp_path, written, monkeypatch):
    parts, _ = written
    monkeypatch.setattr(onnx_cascade, "_joint_logit", lambda _graph, own, *_: own)
    with pytest.raises(CxmlError, match=re.escape("the exported model predicts [")):
        write(str(tmp_path / "onnx"), parts)
    assert not [file for file in (tmp_path / "onnx").rglob("*") if file.name != ".lock"]


def test_a_folder_with_something_else_is_left_alone(tmp_path, written):
    parts, _ = written
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="other content"):
        write(str(tmp_path), parts)
    assert [file.name for file in tmp_path.iterdir() if file.name != ".lock"] == ["mine.txt"]
