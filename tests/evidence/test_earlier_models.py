"""Models of earlier versions, which had words as the only source, predict as they did and export in the present format.

Those models keep the source in a folder `words`. The archive holds a run of 48 texts and 30 labels and its export.
Oracle: the predictions that the earlier version made from both (`expected.json`).
"""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from cxml.evidence import evidence_folder
from cxml.prediction import Predictor

ARCHIVE = Path(__file__).parents[1] / "fixtures/words-of-before.zip"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of the run, whose config has relative paths."""
    folder = tmp_path_factory.mktemp("earlier")
    zipfile.ZipFile(ARCHIVE).extractall(folder)
    return folder


@pytest.mark.parametrize("part", ["run", "exported"])
def test_models_with_words_predict_what_they_predicted(folder, monkeypatch, part):
    monkeypatch.chdir(folder)
    expected = json.loads(Path("expected.json").read_text())
    texts = [json.loads(line)["text"] for line in Path("raw/test.jsonl").read_text().splitlines()]
    predictor = Predictor.from_checkpoint(part, device="cpu", precision="fp32")
    assert predictor.parts.evidence.names == ("words",)
    found = predictor.predict(texts, k=5)
    assert found.labels.tolist() == expected["run"]["labels"]
    np.testing.assert_allclose(found.scores, expected["run"]["scores"], rtol=1e-4)
    alone = Predictor.from_checkpoint(part, evidence=False, device="cpu", precision="fp32").predict(texts, k=5)
    assert alone.labels.tolist() == expected["cascade"]["labels"]


def test_their_export_is_of_the_present_form(folder, monkeypatch, tmp_path):
    monkeypatch.chdir(folder)
    before = Predictor.from_checkpoint("exported", device="cpu", precision="fp32")
    before.save_pretrained(tmp_path / "again")
    assert evidence_folder(str(tmp_path / "again")) == "evidence"
    again = Predictor.from_pretrained(tmp_path / "again", device="cpu", precision="fp32")
    assert again.predict(["red silk tower"]).labels.tolist() == before.predict(["red silk tower"]).labels.tolist()
