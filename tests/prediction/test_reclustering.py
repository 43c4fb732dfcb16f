"""A label tree from the features of a trained model, and a run that continues with it.

Oracles: sums of text features in NumPy, and the tree builder applied to those features.
"""

import dataclasses

import numpy as np
import pytest
from scipy import sparse

import cxml
from cxml import pipeline
from cxml.commands import recluster
from cxml.config import config_to_dict
from cxml.config_files import dump_config
from cxml.data import ShardedDataset
from cxml.transfer.learnt_tree import learnt_features
from cxml.tree import LabelTree, build_tree


@pytest.fixture(scope="module")
def train(run):
    return ShardedDataset(f"{run[0].output}/data", "train")


def test_a_labels_features_are_the_sum_of_its_texts_less_the_mean_of_all(run, train, monkeypatch):
    monkeypatch.setattr("cxml.transfer.learnt_tree._TEXTS_AT_ONCE", 100)
    predictor = cxml.Predictor.from_checkpoint(run[0].output)
    vectors = predictor.embed(train.texts(np.arange(len(train)))).astype(np.float64)
    expected = train.labels_csr().T @ (vectors - vectors.mean(0))
    np.testing.assert_allclose(learnt_features(predictor, train), expected, atol=1e-3)


def test_a_run_goes_on_with_the_tree_that_the_command_builds(run, train, tmp_path, capsys, monkeypatch):
    first, _ = run
    clustered = []

    def kept_features(*arguments):
        clustered.append(learnt_features(*arguments))
        return clustered[-1]

    monkeypatch.setattr("cxml.transfer.learnt_tree.learnt_features", kept_features)
    second = dataclasses.replace(
        first, output=str(tmp_path / "second"), data=dataclasses.replace(first.data, directory=f"{first.output}/data"),
        model=dataclasses.replace(first.model, start_from=f"{first.output}/model"),
        train=dataclasses.replace(first.train, epochs=1),
    )  # fmt: skip
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config_to_dict(second)))
    assert recluster.main(["--config", str(file), "--model", first.output]) == 0
    sizes = " > ".join(f"{size:,}" for size in (*second.tree.level_sizes, train.manifest.num_labels))
    assert sizes in capsys.readouterr().out
    # The last bits of features depend on where memory lies, and a tree on the last bits: only these features give it.
    (features,) = clustered
    own_features = learnt_features(cxml.Predictor.from_checkpoint(first.output), train)
    np.testing.assert_allclose(features, own_features, atol=1e-3 * np.abs(own_features).max())
    expected = build_tree(sparse.csr_matrix(features), second.tree.level_sizes, seed=second.seed)
    pipeline.run(second)
    tree = LabelTree.load(f"{second.output}/tree")
    np.testing.assert_array_equal(tree.label_order, expected.label_order)
    assert not np.array_equal(tree.label_order, LabelTree.load(f"{first.output}/tree").label_order)
    assert recluster.main(["--config", str(file), "--model", first.output]) == 2
    assert "the folder already contains a tree" in capsys.readouterr().err


def test_what_is_no_model_is_refused_and_nothing_written(run, tmp_path, capsys):
    first, _ = run
    file = tmp_path / "config.yaml"
    file.write_text(dump_config(config_to_dict(dataclasses.replace(first, output=str(tmp_path / "second")))))
    assert recluster.main(["--config", str(file)]) == 2
    assert "--model" in capsys.readouterr().err
    assert recluster.main(["--config", str(file), "--model", str(tmp_path)]) == 2
    assert "contains no trained model" in capsys.readouterr().err
    assert not (tmp_path / "second").exists()
