"""The config survives a round trip, and invalid values are refused with field and remedy.

Oracle: for each invalid part, the field and remedy that the error must name.
"""

import dataclasses
import re

import pytest

from cxml.config import CHOOSABLE, Config, TreeConfig, config_from_dict, config_to_dict, with_values
from cxml.errors import ConfigError

BASE = {
    "output": "runs/x",
    "data": {"source": {"kind": "icd10cm", "chapters": ["9"]}},
    "tree": {"level_sizes": [64, 512]},
}


def test_a_config_survives_the_way_through_plain_values():
    config = config_from_dict(BASE)
    assert config_from_dict(config_to_dict(config)) == config


@pytest.mark.parametrize("auto", [(), ("optim.encoder_lr",), ("tree.level_sizes",), tuple(CHOOSABLE)])
@pytest.mark.parametrize("level_sizes", ["auto", (8,)])
def test_the_same_fields_are_left_to_the_run_after_a_round_trip(auto, level_sizes):
    sizes = "auto" if "tree.level_sizes" in auto else level_sizes
    config = Config(output="run", data=config_from_dict(BASE).data, tree=TreeConfig(level_sizes=sizes), auto=auto)
    found = config_from_dict(config_to_dict(config))
    assert set(found.auto) == set(auto)
    assert dataclasses.replace(found, auto=auto) == config


@pytest.mark.parametrize("auto", [("optim.encoder_lr",), ("optim.encoder_lr", "tree.level_sizes")])
def test_a_field_that_gets_a_value_is_no_longer_left_to_the_run(auto):
    config = Config(output="run", data=config_from_dict(BASE).data, auto=auto)
    assert with_values(config, {"optim.encoder_lr": 0.5}).auto == auto[1:]


def test_numbers_that_yaml_reads_as_text_are_numbers():
    assert config_from_dict({**BASE, "optim": {"encoder_lr": "5e-4"}}).optim.encoder_lr == 5e-4


@pytest.mark.parametrize(
    ("part", "field", "remedy"),
    [
        ({"modle": {}}, "modle", "Did you mean model?"),
        ({"optim": {"encodr_lr": 1}}, "optim.encodr_lr", "Did you mean encoder_lr?"),
        ({"optim": {"encoder_lr": "fast"}}, "optim.encoder_lr", "--help"),
        ({"optim": {"encoder_lr": 0}}, "optim.encoder_lr", "Start from the default"),
        ({"optim": {"beta2": 1}}, "optim.beta2", "from 0 to below 1"),
        ({"model": {"dropouts": [0.1]}}, "model.dropouts", "Give 3 entries"),
        ({"model": {"shortlist_sizes": [1, 2, 3]}}, "model.shortlist_sizes", "Give 2 entries"),
        ({"model": {"pooling": "max"}}, "model.pooling", "--help"),
        ({"model": {"taps": ["1+x", "2", "3"]}}, "model.taps", "5+6"),
        ({"train": {"batch_size": 0}}, "train.batch_size", "1 or more"),
        ({"train": {"batch_size": 3, "num_workers": 2, "accumulation": 2}}, "train.batch_size", "4 or more"),
        ({"train": {"zero_stage": 4}}, "train.zero_stage", "--help"),
        ({"train": "fast"}, "train", "configs/"),
        ({"head": {"group_size": -1}}, "head.group_size", "0 or more"),
        (
            {"train": {"zero_stage": 3}, "head": {"implementation": "zero3", "candidates": "all"}},
            "head.candidates",
            "Set head.implementation to rows",
        ),
        ({"head": {"learning_rate": 1000}}, "optim.classifier_weight_decay", "Set it to 0"),
        (
            {"train": {"zero_stage": 3}, "head": {"implementation": "zero3", "learning_rate": 1}},
            "head.learning_rate",
            "Set head.implementation to rows",
        ),
        ({"tree": {"level_sizes": [512, 64]}}, "tree.level_sizes", "[256, 2048]"),
        ({"data": {"source": {"kind": "xmc"}}}, "data.source.path", "train_raw_texts.txt"),
        ({"data": {"source": {"kind": "icd10cm", "chapters": ["23"]}}}, "data.source.chapters", "1 to 22"),
        ({"data": {}}, "data.source", "Add it"),
        ({"output": ""}, "output", "runs/mine"),
        ({"evaluate": {"top_k": []}}, "evaluate.top_k", "[1, 3, 5]"),
    ],
)
def test_what_cannot_be_is_refused_with_field_and_remedy(part, field, remedy):
    with pytest.raises(ConfigError) as caught:
        config_from_dict({**BASE, **part})
    assert caught.value.field == field
    assert remedy in str(caught.value)


@pytest.mark.parametrize("name", ["model.taps", "model.dropouts", "train.epochs", "data.max_length", "output"])
def test_a_mapping_in_place_of_a_value_is_refused_by_the_field_name(name):
    values = {"a": 1}
    for key in reversed(name.split(".")):
        values = {key: values}
    with pytest.raises(ConfigError, match=rf"{re.escape(name)}.*is a mapping"):
        config_from_dict(values)
