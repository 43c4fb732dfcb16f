"""Runs on texts cut into windows, on one process and on two: training, saved and exported models, plans.

Oracles: one process against two, features computed window by window, and the run's own evaluation.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from support.runs import make_encoder, prepare_with_tree, read_losses, small_config, train_one_after_the_other

from cxml.commands import export
from cxml.data import ShardedDataset, data_url
from cxml.errors import ConfigError
from cxml.metrics import metric_sums
from cxml.parallel import distributed, run_workers
from cxml.pipeline.plan import plan_run
from cxml.prediction import Predictor
from cxml.training.evaluate_job import evaluate_run

WINDOW, LONGEST = 12, 48
WAYS = {
    "one": {},
    "by tokens, one": {"batch_tokens": 600},
    "centroids, one": {},
    "two": {},
    "by tokens, two": {"batch_tokens": 600},
    "centroids, two": {},
    "ZeRO 2, two": {"zero_stage": 2},
}


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """Configs of runs on the same data and tree, by the name of their way."""
    folder = tmp_path_factory.mktemp("windows")
    model = {"window": WINDOW, "pooling": "mean"}
    base = small_config(
        folder, make_encoder(folder / "encoder"), data={"max_length": LONGEST}, model=model, train={"epochs": 1}
    )
    prepare_with_tree(base)
    shared = dataclasses.replace(
        base,
        data=dataclasses.replace(base.data, directory=str(folder / "data")),
        tree=dataclasses.replace(base.tree, directory=str(folder / "tree")),
    )
    return {
        name: dataclasses.replace(
            shared,
            output=str(folder / name),
            train=dataclasses.replace(shared.train, **changes),
            model=dataclasses.replace(shared.model, classifier_start="centroids" if "centroids" in name else "fresh"),
        )
        for name, changes in WAYS.items()
    }


def train_and_evaluate(configs):
    """Train the runs, and evaluate the first, in one process group: starting processes costs the most."""
    with distributed(threads=1):
        train_one_after_the_other(configs)
        return evaluate_run(configs[0])


@pytest.fixture(scope="module")
def reports(configs):
    """What the evaluation of a run reports that was trained on one process, or on two."""
    return {
        word: run_workers(
            train_and_evaluate, ([config for name, config in configs.items() if name.endswith(word)],), number
        )
        for number, word in ((1, "one"), (2, "two"))
    }


@pytest.fixture(scope="module")
def runs(configs, reports):
    """Output folders of the runs."""
    return {name: Path(config.output) for name, config in configs.items()}


@pytest.fixture(scope="module")
def predictor(configs, runs):
    return Predictor.from_checkpoint(configs["one"].output, batch_size=64, precision="fp32")


@pytest.fixture(scope="module")
def texts(configs):
    dataset = ShardedDataset(data_url(configs["one"]), "test")
    return dataset.texts(np.arange(len(dataset)))


def weights(folder):
    return safetensors.torch.load_file(folder / "model" / "weights.safetensors")


@pytest.mark.parametrize(
    ("name", "one"),
    [("two", "one"), ("by tokens, two", "by tokens, one"), ("ZeRO 2, two", "one")],
)
def test_every_way_to_spread_a_step_gives_the_same_losses_and_weights(runs, name, one):
    np.testing.assert_allclose(read_losses(runs[name]), read_losses(runs[one]), rtol=2e-4)
    found = weights(runs[name])
    for parameter, expected in weights(runs[one]).items():
        torch.testing.assert_close(found[parameter], expected, rtol=1e-3, atol=2e-4, msg=parameter)


def test_two_processes_begin_at_the_centroids_that_one_finds(runs):
    """A random encoder tells texts apart by little, so rounding counts for more in what is scaled to that."""
    one, two = (np.array(read_losses(runs[f"centroids, {word}"])) for word in ("one", "two"))
    np.testing.assert_allclose(two, one, rtol=5e-3)
    assert abs(one[0] - np.array(read_losses(runs["one"]))[0]).max() > 0.01, "they begin elsewhere"


def test_the_texts_of_these_runs_are_cut(configs):
    assert (ShardedDataset(data_url(configs["one"]), "train").lengths > WINDOW).mean() > 0.2


def test_a_plan_counts_the_windows(configs):
    whole = dataclasses.replace(configs["one"], model=dataclasses.replace(configs["one"].model, window=0))
    (cut, _), (uncut, _) = plan_run(configs["one"]), plan_run(whole)
    lengths = ShardedDataset(data_url(whole), "train").lengths
    assert lengths.mean() < cut.steps.width < uncut.steps.width, "short texts are padded to a window at most"
    assert cut.activations is not None


@pytest.mark.parametrize("word", ["one", "two"])
def test_a_saved_model_cuts_texts_as_its_training_did(configs, reports, word, texts):
    predictor = Predictor.from_checkpoint(configs[word].output, batch_size=64, precision="fp32")
    labels = ShardedDataset(data_url(configs["one"]), "test").labels_csr()
    metrics = metric_sums(predictor.predict(texts, k=5).labels, labels, (1, 3, 5)).result()
    assert predictor.parts.config.model.window == WINDOW
    assert metrics == {name: pytest.approx(reports[word]["levels"][-1][name], abs=1e-9) for name in metrics}


def test_features_of_a_text_rest_on_all_of_its_windows(predictor, texts):
    encoder, tokens = predictor.model.encoder, predictor._cascade.encode(texts)
    row = int(tokens.lengths.argmax())
    own = tokens.slice(row, row + 1).values.astype(np.int64)
    count = -(-(len(own) - 2) // (WINDOW - 2))
    parts = np.split(own[1:-1], [(len(own) - 2) * number // count for number in range(1, count)])
    sums, count = torch.zeros(32), 0
    for part in parts:
        ids = torch.from_numpy(np.concatenate([own[:1], part, own[-1:]]))[None]
        with torch.inference_mode():
            sums += encoder(ids, torch.ones_like(ids))[-1][0] * ids.shape[1]
        count += ids.shape[1]
    assert len(parts) > 2
    np.testing.assert_allclose(predictor.embed([texts[row]])[0], (sums / count).numpy(), rtol=1e-4, atol=1e-5)


def test_paths_and_single_texts_have_the_scores_of_a_batch(predictor, texts):
    together = predictor.predict(texts[:30], k=3)
    for row in range(0, 30, 7):
        alone = predictor.predict([texts[row]], k=3)
        np.testing.assert_allclose(alone.scores[0], together.scores[row], rtol=1e-4)
        (explained,) = predictor.explain([texts[row]], k=3)
        np.testing.assert_allclose([label.score for label in explained], together.scores[row], rtol=1e-4)


def test_an_exported_model_predicts_as_before(predictor, texts, tmp_path):
    predictor.save_pretrained(tmp_path / "exported")
    found = Predictor.from_pretrained(tmp_path / "exported", batch_size=64, precision="fp32").predict(texts, 4)
    expected = predictor.predict(texts, 4)
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(found.scores, expected.scores)


def test_programs_without_windows_are_refused_before_anything_is_written(predictor, configs, tmp_path, capfd):
    with pytest.raises(ConfigError, match=r"form = 'onnx': does not support the windows of 12 tokens.*form cxml"):
        predictor.save_onnx(tmp_path / "onnx")
    words = [configs["one"].output, str(tmp_path / "folder"), "--encoder-program", str(tmp_path / "encoder.pt2")]
    assert export.main(words) == 2
    assert "does not support the windows of 12 tokens" in capfd.readouterr().err
    assert not list(tmp_path.iterdir())
