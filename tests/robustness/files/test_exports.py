"""Exports with false contents and matching checksums are refused, and mapped files that change are noticed.

Oracle: the predictions of the unchanged export.
"""

import json
import os
import shutil

import numpy as np
import pytest
import safetensors.torch
import torch
from support.folder_uses import TEXTS
from support.mutations import make_checksums_fit

from cxml.errors import DataError
from cxml.prediction import Predictor

ROWS = "label_rows.safetensors"


@pytest.fixture
def folder(folders, tmp_path):
    """A copy of the export."""
    return shutil.copytree(folders["export"], tmp_path / "export")


@pytest.fixture(scope="module")
def expected(folders):
    return Predictor.from_pretrained(str(folders["export"])).predict(TEXTS, 4)


def change_tensors(folder, file, change):
    tensors = safetensors.torch.load_file(folder / file)
    change(tensors)
    safetensors.torch.save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / file)
    make_checksums_fit(folder)


def change_settings(folder, change):
    settings = json.loads((folder / "config.json").read_text())
    change(settings)
    (folder / "config.json").write_text(json.dumps(settings))
    make_checksums_fit(folder)


CODE = {
    "attn_implementation": "owner/kernel:fn",
    "_attn_implementation": "owner/kernel:fn",
    "_attn_implementation_internal": "owner/kernel:fn",
    "experts_implementation": "owner/kernel",
    "_experts_implementation_internal": "owner/kernel",
    "auto_map": {"AutoConfig": "owner/code--config.Config", "AutoModel": "owner/code--model.Model"},
    "quantization_config": {"quant_method": "gptq", "bits": 4},
    "custom_pipelines": {"x": {"impl": "owner/code--pipe.Pipe", "pt": ["AutoModel"]}},
    "text_config": {"model_type": "bert", "attn_implementation": "owner/kernel:fn"},
    "backbone_config": {"model_type": "timm_backbone", "backbone": "owner/model", "use_pretrained_backbone": True},
    "per_layer_config": {"0": {"attn_implementation": "owner/kernel:fn"}},
    "name_or_path": "owner/model",
    "_name_or_path": "owner/model",
    "trust_remote_code": True,
    "use_kernels": True,
    "dtype": "__import__",
    "to_dict": 1,
}


@pytest.mark.parametrize("field", CODE)
def test_code_that_an_export_names_is_neither_looked_for_nor_run(folder, expected, no_network, field):
    change_settings(folder, lambda settings: settings["encoder"].update({field: CODE[field]}))
    found = Predictor.from_pretrained(str(folder))
    assert found.model.encoder.transformer.config._attn_implementation in ("sdpa", "eager")
    np.testing.assert_array_equal(found.predict(TEXTS, 4).scores, expected.scores)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_type", "owner/code"), ("model_type", "timm_wrapper"), ("model_type", "encoder-decoder"),
        ("model_type", 3), ("hidden_act", "owner/kernel:fn"), ("num_hidden_layers", 10**9), ("hidden_size", 2**31 - 1),
        ("hidden_size", 48),
        ("intermediate_size", 10**9), ("vocab_size", 10**12), ("num_attention_heads", 0), ("num_attention_heads", -4),
        ("max_position_embeddings", 8), ("layer_norm_eps", "x"),
    ],
)  # fmt: skip
def test_an_impossible_architecture_is_refused_before_it_is_built(folder, no_network, field, value):
    change_settings(folder, lambda settings: settings["encoder"].update({field: value}))
    with pytest.raises(DataError, match=r"Export the model again"):
        Predictor.from_pretrained(str(folder))


@pytest.mark.parametrize(
    "change",
    [
        lambda settings: settings.update(pad_id=30522),
        lambda settings: settings.update(pad_id=-1),
        lambda settings: settings.update(facts=[]),
        lambda settings: settings["facts"].update(metrics={"P@1": "x"}),
        lambda settings: settings["config"]["data"].update(max_length=10**6),
        lambda settings: settings["config"].update(extra=1),
        lambda settings: settings.pop("encoder"),
    ],
)
def test_impossible_settings_are_refused(folder, change):
    change_settings(folder, change)
    with pytest.raises(DataError, match=r"config\.json"):
        Predictor.from_pretrained(str(folder))


def cut(name, rows):
    return lambda tensors: tensors.update({name: tensors[name][:rows]})


@pytest.mark.parametrize("is_mapped", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        lambda rows: rows.update(weight=rows["weight"][:, :8]),
        lambda rows: rows.update(weight=torch.zeros(len(rows["weight"]), 48)),
        lambda rows: rows.update(weight=rows["weight"].reshape(-1)),
        cut("weight", 50), cut("bias", 50),
        lambda rows: (cut("weight", 50)(rows), cut("bias", 50)(rows)),
        lambda rows: rows["weight"].__setitem__((3, 1), torch.nan),
        lambda rows: rows["bias"].__setitem__(3, -torch.inf),
        lambda rows: rows.update(weight=rows["weight"].half()),
        lambda rows: rows.update(bias=rows["bias"].bfloat16()),
        lambda rows: rows.update(weight=rows["weight"].to(torch.int8)),
        lambda rows: rows.update(extra=torch.zeros(3)),
        lambda rows: rows.pop("bias"),
        lambda rows: rows.update(weight=torch.full_like(rows["weight"], torch.nan).bfloat16()),
    ],
)  # fmt: skip
def test_label_rows_that_do_not_fit_or_are_not_finite_are_refused(folder, change, is_mapped):
    change_tensors(folder, ROWS, change)
    with pytest.raises(DataError, match=ROWS):
        Predictor.from_pretrained(str(folder), memory_map=is_mapped)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", ["cluster_heads.0.bias", "encoder.transformer.embeddings.word_embeddings.weight"])
def test_weights_that_are_not_finite_are_refused(folder, name, value):
    change_tensors(folder, "model.safetensors", lambda weights: weights[name].view(-1).__setitem__(5, value))
    with pytest.raises(DataError, match=r"model\.safetensors: .*NaN or infinite"):
        Predictor.from_pretrained(str(folder))


def test_a_mapped_file_is_read_on_after_another_one_took_its_place(folder, expected):
    mapped = Predictor.from_pretrained(str(folder), memory_map=True)
    shutil.copy(folder / ROWS, folder / "other")
    change_tensors(folder, ROWS, lambda rows: rows["weight"].zero_())
    (folder / "other").write_bytes(bytes((folder / ROWS).stat().st_size))
    (folder / "other").replace(folder / ROWS)
    np.testing.assert_array_equal(mapped.predict(TEXTS, 4).scores, expected.scores)


def write_in_place(file):
    with file.open("r+b") as stream:
        stream.seek(-4000, 2)
        stream.write(b"\x3f" * 4000)


def write_and_put_the_time_back(file):
    times = file.stat()
    write_in_place(file)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [write_in_place, write_and_put_the_time_back, lambda file: os.truncate(file, 4096),
     lambda file: os.truncate(file, 0), lambda file: file.write_bytes(bytes(file.stat().st_size))],
)  # fmt: skip
def test_a_mapped_file_that_is_written_to_or_cut_off_is_named_at_every_call(folder, change):
    mapped = Predictor.from_pretrained(str(folder), memory_map=True)
    mapped.predict(TEXTS, 4)
    change(folder / ROWS)
    for use in (mapped.predict, mapped.explain, mapped.predict):
        with pytest.raises(DataError, match=rf"{ROWS}: (was changed while|its checksum)"):
            use(TEXTS, 4)


def test_a_mapped_file_is_checked_against_its_checksum_when_it_is_opened(folder):
    write_in_place(folder / ROWS)
    with pytest.raises(DataError, match=f"{ROWS}: its checksum"):
        Predictor.from_pretrained(str(folder), memory_map=True)


def test_links_of_the_hubs_own_cache_are_followed_and_no_others(folders, tmp_path, expected):
    cache = tmp_path / "models--owner--name"
    snapshot, blobs = cache / "snapshots" / "abc", cache / "blobs"
    blobs.mkdir(parents=True)
    for number, file in enumerate(path for path in folders["export"].rglob("*") if path.is_file()):
        place = snapshot / file.relative_to(folders["export"])
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, blobs / f"{number:040x}")
        place.symlink_to(os.path.relpath(blobs / f"{number:040x}", place.parent))
    found = Predictor.from_pretrained(str(snapshot))
    np.testing.assert_array_equal(found.predict(TEXTS, 4).scores, expected.scores)
    rows = snapshot / ROWS
    target = rows.resolve()
    rows.unlink()
    rows.symlink_to(target)
    with pytest.raises(DataError, match=f"{ROWS} is a link"):
        Predictor.from_pretrained(str(snapshot))
