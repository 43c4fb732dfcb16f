"""An exported model predicts as the run's model in every row format; damaged and incomplete exports are refused.

Oracles: the run's predictor, and file sizes computed by hand.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import cxml
from cxml.batch_prediction import PredictionJob, predict_file
from cxml.checkpoint import list_checkpoints
from cxml.commands import export
from cxml.errors import ConfigError, DataError
from cxml.formats import TextSource
from cxml.prediction import Predictor

FILES = ("config.json", "model.safetensors", "label_rows.safetensors", "tree/tree.arrow", "labels.arrow",
         "tokenizer.json", "README.md")  # fmt: skip


@pytest.fixture(scope="module")
def texts(lines):
    return lines[:40]


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """Folders of the run's model, by the format of its label rows."""
    root = tmp_path_factory.mktemp("exported")
    for rows in ("fp32", "bf16", "fp8", "int8"):
        assert export.main([run[0].output, str(root / rows), "--rows", rows]) == 0
    return root


@pytest.mark.parametrize("memory_map", [False, True])
@pytest.mark.parametrize("rows", ["fp32", "bf16", "fp8", "int8"])
def test_an_exported_model_predicts_as_before(run, exported, texts, rows, memory_map):
    before = Predictor.from_checkpoint(run[0].output, rows=rows).predict(texts, 6)
    after = Predictor.from_pretrained(str(exported / rows), memory_map=memory_map)
    assert after.parts.rows.format == rows
    found = after.predict(texts, 6)
    np.testing.assert_array_equal(found.labels, before.labels)
    np.testing.assert_array_equal(found.scores, before.scores)
    assert found[0] == before[0]


def test_label_rows_take_4_2_1_and_1_bytes_a_weight(exported):
    sizes = [(exported / rows / "label_rows.safetensors").stat().st_size for rows in ("fp32", "bf16", "fp8", "int8")]
    width, labels = 32, len(Predictor.from_pretrained(str(exported / "int8")).names)
    for size, per_row in zip(sizes, (4 * width + 4, 2 * width + 4, width + 8, width + 8), strict=True):
        assert 0 <= size - labels * per_row < 400


def test_mapped_rows_are_never_written_to(exported, texts):
    file = exported / "fp32/label_rows.safetensors"
    before = file.read_bytes()
    mapped = Predictor.from_pretrained(str(exported / "fp32"), memory_map=True)
    mapped.parts.rows.weight[:] = 0
    assert file.read_bytes() == before
    assert (Predictor.from_pretrained(str(exported / "fp32")).predict(texts[:3]).scores > 0).any()


def test_processes_share_an_exported_models_rows(exported, tmp_path, texts):
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    job = PredictionJob(
        model=str(exported / "int8"), source=TextSource(url=str(tmp_path / "texts.txt")), output=str(tmp_path / "out")
    )
    predict_file(job, processes=2)
    expected = Predictor.from_pretrained(str(exported / "int8")).predict(texts)
    rows = [json.loads(line)["labels"] for line in (tmp_path / "out/part-00000.jsonl").read_text().splitlines()]
    found = [[label["score"] for label in row] for row in rows]
    np.testing.assert_allclose(found, expected.scores, atol=1e-6)


def test_an_export_goes_to_any_url_and_comes_back(exported, texts):
    local = Predictor.from_pretrained(str(exported / "bf16"))
    local.save_pretrained("memory://models/again")
    remote = cxml.Predictor.from_pretrained("memory://models/again")
    np.testing.assert_array_equal(remote.predict(texts).scores, local.predict(texts).scores)
    with pytest.raises(ConfigError, match="local folder"):
        Predictor.from_pretrained("memory://models/again", memory_map=True)


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_or_missing_file_is_named(run, tmp_path, name):
    folder = tmp_path / "exported"
    Predictor.from_checkpoint(run[0].output).save_pretrained(str(folder))
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError, match=f"{name}: its checksum differs from the manifest"):
        Predictor.from_checkpoint(str(folder))
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"{name}: is listed in the manifest but missing"):
        Predictor.from_checkpoint(str(folder))


def test_an_unfinished_export_is_no_model(run, tmp_path):
    folder = tmp_path / "exported"
    Predictor.from_checkpoint(run[0].output).save_pretrained(str(folder))
    (folder / "manifest.json").unlink()
    with pytest.raises(DataError, match="contains no trained model"):
        Predictor.from_checkpoint(str(folder))


def test_a_folder_with_something_else_is_left_alone(run, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="other content"):
        Predictor.from_checkpoint(run[0].output).save_pretrained(str(tmp_path))
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_the_model_card_tells_metrics_and_config_but_no_places(run, exported):
    config, report = run
    card = (exported / "fp32/README.md").read_text()
    _, head, body = card.split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == "cxml"
    assert f"| P@1 | {report['levels'][-1]['P@1']:.2f} |" in body
    assert "8, 32" in body
    settings = (exported / "fp32/config.json").read_text()
    for text in (card, settings):
        assert str(Path(config.output).parent) not in text


def test_a_checkpoint_predicts_as_the_model_of_its_step(run, texts):
    newest = list_checkpoints(f"{run[0].output}/checkpoints")[0]
    steps = [json.loads(line)["step"] for line in (Path(run[0].output) / "metrics.jsonl").read_text().splitlines()]
    assert newest.step == steps[-1]
    found = Predictor.from_checkpoint(newest.url).predict(texts)
    expected = Predictor.from_checkpoint(run[0].output).predict(texts)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


def test_the_exported_encoder_gives_the_same_features(run, tmp_path, texts):
    assert export.main([run[0].output, str(tmp_path / "out"), "--encoder-program", str(tmp_path / "encoder.pt2")]) == 0
    predictor = Predictor.from_pretrained(str(tmp_path / "out"))
    program = torch.export.load(tmp_path / "encoder.pt2").module()
    tokens = predictor._cascade.encode(texts[:1])
    ids = torch.from_numpy(tokens.values.astype(np.int64))[None]
    last = program(ids, torch.ones_like(ids))[-1]
    np.testing.assert_allclose(last.detach().numpy(), predictor.embed(texts[:1]), atol=1e-5)
