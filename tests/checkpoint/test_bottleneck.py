"""Models whose label rows are narrower than the encoder: checkpoints, exports, starts, label changes and trees.

Oracles: a matrix product in NumPy for the scores; the model, checkpoint and export of one run against each other.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from support.checkpoints import checkpointed, model_tensors, train_each
from support.runs import make_encoder, prepare_with_tree, small_config

from cxml.checkpoint import list_checkpoints, load_model, load_start
from cxml.data import ShardedDataset
from cxml.errors import ConfigError, DataError
from cxml.model import build_model
from cxml.parallel import Exchange, run_workers, sharded_levels
from cxml.prediction import Predictor
from cxml.prediction.encoder_program import export_encoder
from cxml.prediction.similarity import label_similarity, text_similarity
from cxml.transfer.label_set import relabel
from cxml.transfer.learnt_tree import recluster
from cxml.tree import LabelTree

WIDE, NARROW = 32, 8


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short run with a model and a checkpoint of its last step; its last clusters are sharded too."""
    folder = tmp_path_factory.mktemp("bottleneck")
    encoder = make_encoder(folder / "encoder")
    config = small_config(folder, encoder, model={"bottleneck": NARROW}, train={"epochs": 1, "batch_size": 64})
    prepare_with_tree(config)
    config = checkpointed(
        config, folder / "out", checkpoint={"every_minutes": 0, "every_steps": 11}, head={"shard_from": 8}
    )
    assert run_workers(train_each, ([(config, None, "auto")],), 1) == [True]
    return config


@pytest.fixture(scope="module")
def texts(trained):
    dataset = ShardedDataset(trained.data.directory, "test")
    return dataset.texts(np.arange(30))


def sources(config):
    return {"model": f"{config.output}/model", "checkpoint": list_checkpoints(f"{config.output}/checkpoints")[0].url}


def tree_of(config):
    return LabelTree.load(config.tree.directory)


def started(config, tree, **model):
    torch.manual_seed(5)
    settings = dataclasses.replace(config.model, **model)
    built = build_model(settings, tree, make_levels=sharded_levels(tree, Exchange(), config))
    fresh = built.encoder.bottleneck.weight.detach().clone() if settings.bottleneck else None
    load_start(settings, built, tree)
    return built, fresh


@pytest.mark.parametrize("rows", ["fp32", "bf16", "fp8", "int8"])
def test_run_checkpoint_and_export_predict_alike(trained, texts, tmp_path, rows):
    expected = Predictor.from_checkpoint(sources(trained)["model"], rows=rows)
    assert expected.parts.rows.weight.shape[1] == NARROW
    best = expected.predict(texts, 6)
    saved = Predictor.from_checkpoint(sources(trained)["checkpoint"], rows=rows)
    np.testing.assert_allclose(saved.predict(texts, 6).scores, best.scores, atol=1e-5)
    expected.save_pretrained(tmp_path / "exported")
    found = Predictor.from_pretrained(tmp_path / "exported", memory_map=True).predict(texts, 6)
    np.testing.assert_array_equal(found.labels, best.labels)
    np.testing.assert_array_equal(found.scores, best.scores)


def test_scores_are_products_of_narrow_rows_and_mapped_features(trained, texts):
    predictor = Predictor.from_checkpoint(sources(trained)["model"])
    rows, features = predictor.parts.rows, predictor.embed(texts)
    assert features.shape == (len(texts), NARROW)
    logits = features @ rows.weight.T + rows.bias
    order = predictor.parts.tree.label_order
    model = predictor.model
    model.scoring = "level"
    found = predictor.predict(texts, 4, beam=predictor.parts.tree.level_sizes[:-1])
    for text in range(len(texts)):
        best = np.argsort(-logits[text], kind="stable")[:4]
        np.testing.assert_allclose(found.scores[text], 1 / (1 + np.exp(-logits[text][best])), rtol=1e-4)
        assert set(found.labels[text]) == set(order[best])


def test_neighbours_are_searched_among_narrow_vectors(trained, texts):
    predictor = Predictor.from_checkpoint(sources(trained)["model"])
    dataset = ShardedDataset(trained.data.directory, "train")
    found = text_similarity(predictor, dataset).nearest(predictor.embed(dataset.texts(np.array([3, 70]))), 1)
    np.testing.assert_allclose(found.cosines, 1, atol=1e-4)
    assert label_similarity(predictor).nearest_of(np.array([0, 5]), 3).ids.shape == (2, 3)


def test_the_exported_encoder_gives_the_mapped_feature(trained, texts, tmp_path):
    predictor = Predictor.from_checkpoint(sources(trained)["model"])
    export_encoder(predictor.model.encoder, str(tmp_path / "encoder.pt2"))  # compares the features
    program = torch.export.load(tmp_path / "encoder.pt2").module()
    ids = torch.full((2, 5), 1000)
    assert [feature.shape[1] for feature in program(ids, torch.ones_like(ids))] == [WIDE, WIDE, NARROW]


@pytest.mark.parametrize("source", ["model", "checkpoint"])
def test_the_encoder_alone_comes_without_the_map_of_other_labels(trained, source):
    found, fresh = started(trained, tree_of(trained), start_from=sources(trained)[source])
    expected = model_tensors(Path(trained.output))
    assert torch.equal(found.encoder.bottleneck.weight, fresh)
    name = "encoder.transformer.encoder.layer.0.output.dense.weight"
    assert torch.equal(found.get_parameter(name), expected[name])
    wide, _ = started(trained, tree_of(trained), start_from=sources(trained)[source], bottleneck=0)
    assert torch.equal(wide.get_parameter(name), expected[name])


@pytest.mark.parametrize("source", ["model", "checkpoint"])
def test_all_of_a_model_comes_with_its_map_or_not_at_all(trained, source):
    start = {"start_from": sources(trained)[source], "start_with": "all"}
    found, _ = started(trained, tree_of(trained), **start)
    expected = model_tensors(Path(trained.output))
    assert torch.equal(found.encoder.bottleneck.weight, expected["encoder.bottleneck.weight"])
    (rows,) = found.label_head.export_rows()
    torch.testing.assert_close(rows["weight"], expected["label weight"], rtol=1e-6, atol=0)
    for other in (0, 16):
        with pytest.raises(DataError, match=r"encoder\.bottleneck|label rows do not fit"):
            started(trained, tree_of(trained), **start, bottleneck=other)


def test_labels_may_be_added_to_rows_of_the_same_width(trained, tmp_path):
    source = dataclasses.replace(trained.data.source, chapters=("3", "22"))
    more = dataclasses.replace(
        trained, output=str(tmp_path / "more"), data=dataclasses.replace(trained.data, directory="", source=source),
        tree=dataclasses.replace(trained.tree, directory=""),
    )  # fmt: skip
    wide = dataclasses.replace(more, model=dataclasses.replace(more.model, bottleneck=0))
    with pytest.raises(ConfigError, match=r"model\.bottleneck = 0.*trained with 8. Set it to 8"):
        relabel(wide, f"{trained.output}/model")
    counts = relabel(more, f"{trained.output}/model")
    assert counts.added > 0
    tree = LabelTree.load(f"{more.output}/tree")
    after = load_model(f"{more.output}/model", tree, Exchange())
    (rows,) = after.label_head.export_rows()
    assert rows["weight"].shape == (tree.num_labels, NARROW)
    assert int((rows["weight"] == 0).all(1).sum()) == counts.added


def test_a_tree_is_made_from_mapped_features(trained, tmp_path):
    other = dataclasses.replace(
        trained, output=str(tmp_path / "other"), tree=dataclasses.replace(trained.tree, directory="")
    )
    tree = recluster(other, f"{trained.output}/model")
    assert tree.level_sizes == tree_of(trained).level_sizes
