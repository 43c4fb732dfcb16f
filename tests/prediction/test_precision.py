"""The number format of a prediction does not depend on that of the training.

Oracle: the same model in fp32.
"""

import numpy as np
import pytest
import torch

from cxml.errors import ConfigError
from cxml.prediction import Predictor

K = 5


@pytest.fixture(scope="module")
def predictors(run):
    return {precision: Predictor.from_checkpoint(run[0].output, precision=precision) for precision in ("fp32", "bf16")}


def test_a_model_predicts_in_bf16_nearly_what_it_predicts_in_fp32(predictors, lines):
    found, expected = (predictors[precision].predict(lines, K) for precision in ("bf16", "fp32"))
    assert predictors["bf16"].model.encoder.transformer.dtype == torch.bfloat16
    best = [len(set(a) & set(b)) for a, b in zip(found.labels.tolist(), expected.labels.tolist(), strict=True)]
    assert np.mean(best) > 0.98 * K
    same = found.labels == expected.labels  # elsewhere, the shortlists differ in a cluster
    np.testing.assert_allclose(found.scores[same], expected.scores[same], atol=0.03)
    features = [predictors[precision].embed(lines) for precision in ("bf16", "fp32")]
    assert features[0].dtype == np.float32
    error = np.linalg.norm(features[0] - features[1]) / np.linalg.norm(features[1])
    assert 0 < error < 0.02


def test_a_smaller_model_and_an_export_keep_the_weights_that_were_not_rounded(predictors, lines, tmp_path):
    few = range(0, 40, 2)
    expected = predictors["fp32"].restricted_to(few).predict(lines[:20], K)
    smaller = predictors["bf16"].restricted_to(few)
    assert smaller.model.encoder.transformer.dtype == torch.bfloat16
    smaller.save_pretrained(tmp_path)
    found = Predictor.from_pretrained(tmp_path, precision="fp32").predict(lines[:20], K)
    np.testing.assert_array_equal(found.scores, expected.scores)


def test_a_precision_that_is_none_is_refused(run):
    with pytest.raises(ConfigError, match="precision"):
        Predictor.from_checkpoint(run[0].output, precision="fp64")  # pyright: ignore[reportArgumentType]
