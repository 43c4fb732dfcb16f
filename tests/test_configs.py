"""The shipped configs are valid and hold the published settings.

Oracle: the settings of the papers, written here a second time.
"""

import re
from pathlib import Path

import pytest
import yaml

from cxml.config import Config, config_from_dict
from cxml.config_files import load_config
from cxml.errors import DataError
from cxml.metrics import KNOWN_PROPENSITIES

FOLDER = Path(__file__).parents[1] / "configs"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))

FOUR_TAPS = ("5+6", "8", "10", "12")
THREE_TAPS = ("7+8", "10", "12")
SMALL_TREE, LARGE_TREE = (2**10, 2**13, 2**16), (2**13, 2**16)

# Settings that the CascadeXML and the LEVER authors published: taps, clusters, shortlists, dropouts, batch, epochs,
# longest text, scoring. None where nothing was published.
PUBLISHED = {
    "wiki10-31k": (THREE_TAPS, None, (64, 64), (0.3, 0.3, 0.4), 64, 15, 256, "weighted"),
    "amazon-670k": (FOUR_TAPS, SMALL_TREE, (128, 256, 400), (0.2, 0.25, 0.4, 0.5), 64, 15, 128, "weighted"),
    "wiki-500k": (FOUR_TAPS, SMALL_TREE, (128, 256, 512), (0.2, 0.25, 0.35, 0.5), 64, 15, 128, "level"),
    "lf-amazontitles-131k": (
        FOUR_TAPS, SMALL_TREE, (1024, 1024, 1024), (0.2, 0.25, 0.35, 0.5), 64, 15, None, "weighted",
    ),
    "lf-amazontitles-1.3m": (THREE_TAPS, LARGE_TREE, (1024, 2048), (0.2, 0.3, 0.4), 48, 10, None, None),
    "amazoncat-13k": (None, None, None, None, None, None, None, "level"),
    "amazon-3m": (None, None, None, None, None, None, None, "weighted"),
}  # fmt: skip
WARMUP_EPOCHS = {"wiki10-31k": 2, "amazon-670k": 1}
# Labels of each set, as the Extreme Classification Repository counts them.
NUM_LABELS = {
    "wiki10-31k": 30_938,
    "amazoncat-13k": 13_330,
    "wiki-500k": 501_070,
    "amazon-670k": 670_091,
    "amazon-3m": 2_812_281,
    "lf-amazontitles-131k": 131_073,
    "lf-amazontitles-1.3m": 1_305_265,
}


def load(name: str) -> Config:
    return config_from_dict(yaml.safe_load((FOLDER / f"{name}.yaml").read_text()))


def test_there_is_a_config_for_each_data_set():
    assert {*PUBLISHED, "quickstart", "icd10cm", "wordnet", "eurlex57k"} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_valid_and_writes_to_a_folder_of_its_own_name(name):
    assert load(name).output == f"runs/{name}"


@pytest.mark.parametrize("name", NAMES)
def test_a_shortlist_is_no_wider_than_its_level(name):
    config = load(name)
    pairs = zip(config.model.shortlist_sizes, config.tree.level_sizes, strict=True)
    assert all(shortlist <= size for shortlist, size in pairs)


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_holds_the_published_settings(name):
    config = load(name)
    model, train = config.model, config.train
    held = (
        model.taps, config.tree.level_sizes, model.shortlist_sizes, model.dropouts, train.batch_size, train.epochs,
        config.data.max_length, model.scoring,
    )  # fmt: skip
    for value, published in zip(held, PUBLISHED[name], strict=True):
        assert published is None or value == published


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_holds_what_the_authors_use_for_all_sets(name):
    config = load(name)
    model, optim, tree = config.model, config.optim, config.tree
    assert (model.encoder, model.pooling, model.projection_dropout) == ("bert-base-uncased", "cls", 0.2)
    assert (optim.encoder_lr, optim.classifier_lr) == (1e-4, 1e-3)
    assert (optim.encoder_weight_decay, optim.classifier_weight_decay) == (0.05, 0.005)
    assert (optim.beta1_high, optim.beta1_low, optim.decay_epochs) == (0.95, 0.85, 3)
    assert optim.warmup_epochs == WARMUP_EPOCHS.get(name, 1)
    assert (tree.feature_top_k, tree.tolerance) == (1000, 1e-4)


@pytest.mark.parametrize("name", PUBLISHED)
def test_its_propensity_constants_are_those_of_published_results(name):
    data = load(name).data
    assert (data.propensity_a, data.propensity_b) == KNOWN_PROPENSITIES[name]


@pytest.mark.parametrize("name", NUM_LABELS)
def test_its_leaves_hold_at_least_two_labels(name):
    assert NUM_LABELS[name] >= 2 * load(name).tree.level_sizes[-1]


@pytest.mark.parametrize("name", NAMES)
def test_it_says_how_to_run_it_and_where_its_data_comes_from(name):
    text = (FOLDER / f"{name}.yaml").read_text()
    assert re.search(rf"--config {re.escape(name)}( |$)", text, re.MULTILINE)
    assert "\n# Data: " in text


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x.yaml", "file:///no/such/x.yaml", "memory://none/x.yaml"])
def test_a_url_without_a_config_is_named_without_a_traceback(url):
    with pytest.raises(DataError, match=f"{re.escape(url)}: cannot find or read this config"):
        load_config(url)
