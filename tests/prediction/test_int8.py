"""Prediction with the encoder in int8, by onnxruntime.

Oracles: linear layers that round in PyTorch as onnxruntime documents it, and the same model in fp32.
"""

import copy
import dataclasses
import json
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from support.encoders import save_encoder
from support.runs import make_encoder
from torch import nn

from cxml import extras, pipeline
from cxml.commands import predict
from cxml.config import ModelConfig
from cxml.data import Ragged, WindowRule, collate, lengths_to_offsets
from cxml.errors import ConfigError, CxmlError, StorageError
from cxml.model import build_encoder
from cxml.prediction import Predictor, int8_transformer
from cxml.prediction.encoder_precision import encoder_in, require_precision

K = 5
CPU = torch.device("cpu")


class Rounded(nn.Module):
    """A linear layer with weights in int8, one scale per output, and inputs in uint8, one scale and zero for all."""

    def __init__(self, linear):
        super().__init__()
        scale = linear.weight.abs().amax(1, keepdim=True) / 127
        self.weight, self.bias = (linear.weight / scale).round() * scale, linear.bias

    def forward(self, values):
        low, high = values.min().clamp(max=0), values.max().clamp(min=0)
        scale = (high - low) / 255
        zero = (-low / scale).round()
        rounded = ((values / scale).round() + zero).clamp(0, 255) - zero
        return nn.functional.linear(rounded * scale, self.weight, self.bias)


def with_rounded_layers(module):
    for name, child in module.named_children():
        setattr(module, name, Rounded(child) if isinstance(child, nn.Linear) else with_rounded_layers(child))
    return module


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = make_encoder(tmp_path_factory.mktemp("encoder"))
    config = ModelConfig(encoder=folder, taps=("1", "1+2", "2"), dropouts=(0.0, 0.0, 0.0), bottleneck=8)
    torch.manual_seed(0)
    return build_encoder(config, 3).eval()


@pytest.fixture(scope="module")
def in_int8(encoder):
    return encoder_in(encoder, "int8", CPU)


@pytest.fixture(scope="module")
def predictors(run):
    return {precision: Predictor.from_checkpoint(run[0].output, precision=precision) for precision in ("fp32", "int8")}


def batch_of(lengths, rule=None):
    generator = np.random.default_rng(0)
    tokens = Ragged(generator.integers(0, 30522, sum(lengths), dtype=np.int32), lengths_to_offsets(np.array(lengths)))
    none = Ragged(np.zeros(0, np.int32), np.zeros(len(lengths) + 1, np.int64))
    return collate(tokens, none, pad_id=0, global_size=len(lengths), rule=rule)


def features_of(encoder, batch):
    with torch.inference_mode():
        return encoder(batch.input_ids, batch.attention_mask, batch.windows)


def relative_error(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("lengths", [[1], [31, 7, 7, 1], [9] * 40])
def test_features_are_those_of_linear_layers_with_rounded_weights_and_inputs(encoder, in_int8, lengths):
    rounded = copy.deepcopy(encoder)
    with_rounded_layers(rounded.transformer.encoder)
    batch = batch_of(lengths)
    for exact, expected, found in zip(*(features_of(each, batch) for each in (encoder, rounded, in_int8)), strict=True):
        assert found.dtype == torch.float32
        assert relative_error(found, expected) < 0.2 * relative_error(exact, expected)


def test_windows_of_a_text_are_pooled_as_in_fp32(encoder, in_int8):
    batch = batch_of([40, 5, 23], WindowRule(size=12, begin=1, end=1))
    assert len(batch.input_ids) > 3
    for expected, found in zip(features_of(encoder, batch), features_of(in_int8, batch), strict=True):
        assert relative_error(found, expected) < 0.05


def test_long_texts_are_computed_in_parts(in_int8, encoder, monkeypatch):
    sizes = []
    run = int8_transformer.Int8Transformer._run
    monkeypatch.setattr(int8_transformer, "_MOST_SCORES", 4 * 20**2 * 2)
    monkeypatch.setattr(
        int8_transformer.Int8Transformer, "_run", lambda self, ids, mask: sizes.append(len(ids)) or run(self, ids, mask)
    )
    batch = batch_of([20] * 5)
    for expected, found in zip(features_of(encoder, batch), features_of(in_int8, batch), strict=True):
        assert relative_error(found, expected) < 0.05
    assert sizes == [2, 2, 1]


def test_most_labels_are_those_of_fp32(predictors, lines):
    found, expected = (predictors[precision].predict(lines, K) for precision in ("int8", "fp32"))
    common = [len(set(a) & set(b)) for a, b in zip(found.labels.tolist(), expected.labels.tolist(), strict=True)]
    assert np.mean(common) > 0.9 * K
    assert not np.array_equal(found.scores, expected.scores)


def test_pickles_copies_and_smaller_models_predict_the_same(predictors, lines):
    predictor = predictors["int8"]
    expected = predictor.predict(lines[:20], K).scores
    for other in (
        pickle.loads(pickle.dumps(predictor)),
        copy.deepcopy(predictor),
        predictor.restricted_to(predictor.names),
    ):
        np.testing.assert_array_equal(other.predict(lines[:20], K).scores, expected)
    assert predictor.restricted_to(range(9)).model.encoder is predictor.model.encoder


def test_an_export_keeps_the_weights_that_were_not_rounded(predictors, lines, tmp_path):
    predictors["int8"].save_pretrained(tmp_path)
    found = Predictor.from_pretrained(tmp_path, precision="fp32").predict(lines[:20], K)
    np.testing.assert_array_equal(found.scores, predictors["fp32"].predict(lines[:20], K).scores)


def test_explanations_have_the_probabilities_of_the_prediction(predictors, lines):
    found = predictors["int8"].predict(lines[:5], 3).scores
    explained = predictors["int8"].explain(lines[:5], 3)
    np.testing.assert_allclose([[label.score for label in row] for row in explained], found, rtol=1e-5)


def test_the_command_predicts_as_the_predictor(run, predictors, lines, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(lines[:30]))
    options = ["--output", str(tmp_path / "found"), "--precision", "int8", "--batch-size", "128"]
    assert predict.main([run[0].output, str(tmp_path / "texts.txt"), *options]) == 0
    found = [json.loads(line) for part in sorted((tmp_path / "found").glob("*.jsonl")) for line in part.open()]
    names = [[label.name for label in row] for row in predictors["int8"].predict(lines[:30], 5)]
    assert [[label["name"] for label in line["labels"]] for line in found] == names


def test_a_run_is_evaluated_in_int8(run, tmp_path):
    config, report = run
    shutil.copytree(config.output, tmp_path / "run")
    in_int8 = dataclasses.replace(config.evaluate, precision="int8")
    found = pipeline.evaluate_again(dataclasses.replace(config, output=str(tmp_path / "run"), evaluate=in_int8))
    own, of_fp32 = (each["levels"][-1]["P@5"] for each in (found, report))
    assert own == pytest.approx(of_fp32, abs=2)
    assert found["levels"] != report["levels"]


def test_int8_on_an_accelerator_is_refused():
    with pytest.raises(ConfigError, match=r"evaluate\.precision.*only for CPUs"):
        require_precision("evaluate.precision", "int8", torch.device("cuda:0"))


def test_a_missing_package_is_named_before_the_model_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(extras, "is_installed", lambda module: module != "onnxscript")
    with pytest.raises(ConfigError, match=r"cxml\[onnx\]"):
        Predictor.from_checkpoint(tmp_path / "nothing", precision="int8")


def small_encoder(folder, kind):
    save_encoder(folder, kind)
    config = ModelConfig(encoder=str(folder), taps=("1", "2"), dropouts=(0.0, 0.0), pooling="mean")
    return build_encoder(config, 2).eval()


def test_a_conversion_does_not_disturb_predictions_of_other_threads(encoder, in_int8):
    batch = batch_of([31, 7, 7, 1])
    exact, rounded = (features_of(each, batch) for each in (encoder, in_int8))
    with ThreadPoolExecutor(1) as pool:
        conversion = pool.submit(encoder_in, encoder, "int8", CPU)
        while not conversion.done():
            torch.testing.assert_close(features_of(encoder, batch), exact)
            time.sleep(0.05)
    torch.testing.assert_close(features_of(conversion.result(), batch), rounded)


def test_attention_with_trained_biases_is_converted(tmp_path):
    encoder = small_encoder(tmp_path / "encoder", "t5")
    batch = batch_of([31, 7, 7, 1])
    batch.input_ids.remainder_(64)
    for expected, found in zip(
        *(features_of(each, batch) for each in (encoder, encoder_in(encoder, "int8", CPU))), strict=True
    ):
        assert relative_error(found, expected) < 0.1


def test_an_encoder_that_cannot_be_exported_is_refused_with_reason_and_remedy(tmp_path):
    with pytest.raises(CxmlError, match=r"Constraints violated.*Predict in another precision"):
        encoder_in(small_encoder(tmp_path / "encoder", "mamba"), "int8", CPU)


def test_a_folder_for_temporary_files_that_cannot_be_written_is_named(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nothing"))
    with pytest.raises(StorageError, match=r"nothing.*TMPDIR"):
        encoder_in(encoder, "int8", CPU)


def test_an_encoder_from_a_pickle_has_the_same_features_in_a_new_process(encoder, tmp_path):
    batch = batch_of([5, 3])
    inputs = (batch.input_ids, batch.attention_mask)
    (tmp_path / "encoder.pickle").write_bytes(pickle.dumps((encoder, inputs)))
    code = (
        "import pickle, sys, torch\n"
        "encoder, inputs = pickle.load(open(sys.argv[1], 'rb'))\n"
        "torch.save([each.detach() for each in encoder(*inputs)], sys.argv[2])"
    )
    files = [str(tmp_path / name) for name in ("encoder.pickle", "features.pt")]
    subprocess.run([sys.executable, "-c", code, *files], check=True)
    torch.testing.assert_close(torch.load(files[1]), features_of(encoder, batch))
