"""The commands of `cxml.data_tools`, run from end to end on real texts.

Oracles: the library functions behind the commands, and the rows of the data set before a split.
"""

import importlib

import numpy as np
import pytest
import yaml

from cxml.commands.data import inspect as inspect_command
from cxml.commands.data import prepare as prepare_command
from cxml.commands.data import propensity as propensity_command
from cxml.commands.data import split as split_command
from cxml.commands.data import validate as validate_command
from cxml.config import config_from_dict, config_to_dict
from cxml.data import DataManifest, ShardedDataset, data_url, read_label_table
from cxml.inspection.checks import validate
from cxml.metrics import inverse_propensities
from cxml.preparation import is_prepared, prepare

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, wordnet_slice):
    output = tmp_path_factory.mktemp("run")
    data = {"source": {"path": str(wordnet_slice)}, "max_length": 24, "shard_rows": 100}
    config = config_from_dict({"auto": [], "output": str(output), "data": data})
    prepare(config)
    return config


@pytest.mark.parametrize(
    "name", ["prepare", "validate", "inspect", "split", "propensity", "tree_report", "import_tree"]
)
def test_help_teaches_each_command(name, capsys):
    with pytest.raises(SystemExit) as caught:
        importlib.import_module(f"cxml.data_tools.{name}").main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert f"python -m cxml.data_tools.{name}" in text
    assert "data set" in text


def test_prepare_makes_the_data_set_of_a_config_file(prepared, tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(config_to_dict(prepared)))
    assert prepare_command.main(["--config", str(file), "--output", str(tmp_path / "run")]) == 0
    url = capsys.readouterr().out.strip()
    assert url == str(tmp_path / "run/data")
    assert DataManifest.read(url) == DataManifest.read(data_url(prepared))


def test_prepare_refuses_with_a_message_and_a_code(prepared, tmp_path, capsys):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(config_to_dict(prepared)))
    changed = ["--config", str(file), "--data.source.path", str(tmp_path), "--output", str(tmp_path / "run")]
    assert prepare_command.main(changed) == 2
    assert "train_raw_texts.txt" in capsys.readouterr().err


def test_validate_says_what_is_there_or_what_is_broken(prepared, tmp_path, capsys):
    assert validate_command.main([data_url(prepared)]) == 0
    assert "is valid: 240 train texts, 60 test texts" in capsys.readouterr().out
    assert validate_command.main([str(tmp_path)]) == 2
    assert "the prepared data set does not exist" in capsys.readouterr().err


def test_inspect_shows_counts_and_real_examples_and_draws(prepared, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    picture = tmp_path / "data.png"
    assert inspect_command.main([data_url(prepared), "--plot", str(picture), "--examples", "2"]) == 0
    shown = capsys.readouterr().out
    assert "240 in 3 shards" in shown
    dataset = ShardedDataset(data_url(prepared), "test")
    assert sum(text[:40] in shown for text in dataset.texts(np.arange(len(dataset)))) >= 2
    frequency = read_label_table(data_url(prepared)).frequency
    assert f"{np.mean((frequency > 0) & (frequency <= 5)):.1%}" in shown
    assert picture.read_bytes().startswith(PNG)


def test_split_holds_out_texts_that_are_then_in_neither_the_rest_nor_twice(prepared, tmp_path, capsys):
    out = str(tmp_path / "cut")
    assert split_command.main([data_url(prepared), out, "--fraction", "0.25", "--seed", "3"]) == 0
    assert "180 train texts, 60 validation texts, 60 test texts" in capsys.readouterr().out
    validate(out)

    def rows(url, split):
        dataset = ShardedDataset(url, split)
        everything = np.arange(len(dataset))
        ids, labels = dataset.gather(everything)
        features = dataset.features_csr()
        return sorted(
            (text, ids.values[a:b].tobytes(), labels.values[c:d].tobytes(), features[i].data.tobytes())
            for i, (text, a, b, c, d) in enumerate(
                zip(dataset.texts(everything), ids.offsets[:-1], ids.offsets[1:], labels.offsets[:-1],
                    labels.offsets[1:], strict=True)
            )
        )  # fmt: skip

    assert sorted(rows(out, "train") + rows(out, "validation")) == rows(data_url(prepared), "train")
    assert rows(out, "test") == rows(data_url(prepared), "test")


def test_the_same_seed_holds_out_the_same_texts(prepared, tmp_path):
    for name, seed in (("one", "3"), ("two", "3"), ("other", "4")):
        split_command.main([data_url(prepared), str(tmp_path / name), "--seed", seed])
    one, two, other = (DataManifest.read(str(tmp_path / name)) for name in ("one", "two", "other"))
    assert one == two
    assert one.splits["validation"][0].sha256 != other.splits["validation"][0].sha256


def test_training_takes_a_cut_set_for_the_one_it_was_cut_from_even_by_way_of_another(prepared, tmp_path):
    values = config_to_dict(prepared)
    source = data_url(prepared)
    for out, name in ((str(tmp_path / "cut"), "validation"), (str(tmp_path / "again"), "rest")):
        split_command.main([source, out, "--name", name])
        values["data"]["directory"] = source = out
        assert is_prepared(config_from_dict(values))


@pytest.mark.parametrize(
    ("options", "problem"),
    [(["--fraction", "0.001"], "empty"), (["--fraction", "1"], "empty"), (["--name", "train"], "is taken")],
)
def test_a_split_that_makes_no_sense_is_refused(prepared, tmp_path, capsys, options, problem):
    assert split_command.main([data_url(prepared), str(tmp_path / "cut"), *options]) == 2
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize("name", ["weights.txt", "weights.npy"])
def test_propensity_writes_the_weights_that_the_metrics_use(prepared, tmp_path, name):
    file = tmp_path / name
    assert propensity_command.main([data_url(prepared), str(file), "--a", "0.6", "--b", "2.6"]) == 0
    written = np.load(file) if name.endswith(".npy") else np.loadtxt(file)
    frequency = read_label_table(data_url(prepared)).frequency
    np.testing.assert_array_equal(written, inverse_propensities(frequency, 240, (0.6, 2.6)))
