"""What each config field changes: a fingerprint, whether a run resumes, or nothing.

Oracles: the table of effects written here a second time, and fingerprints of existing files.
"""

import dataclasses

import pytest

from cxml import storage
from cxml.checkpoint.compatibility import check_same_run
from cxml.checkpoint.manifest import RunState
from cxml.config import (
    Config,
    DataConfig,
    EvidenceConfig,
    HeadConfig,
    ModelConfig,
    OptimConfig,
    SourceConfig,
    TrainConfig,
    TreeConfig,
    config_to_dict,
    effects,
    fingerprint_fields,
    setting,
)
from cxml.errors import StaleArtefactError
from cxml.tree.build import tree_settings

# A field that is missing here has to be declared: does it change what its section makes? If not, give it its effect by
# `setting` in cxml/config.py. If it does, its default must not change the fingerprints of files that are there already:
# give it `since_files=True`. Then add it here.
EFFECTS = {
    SourceConfig: {
        "result": "kind path text_column labels_column label_ids id_column label_separator chapters test_fraction "
        "split_seed unseen_labels",
        "none": "labels_file",
    },
    DataConfig: {
        "result": "source on_error max_length shard_rows keep_text tfidf_max_features",
        "none": "directory engine num_workers propensity_a propensity_b",
    },
    TreeConfig: {
        "result": "level_sizes feature_top_k walk_length walk_restart walk_top_k walk_max_frequency name_features "
        "name_weight max_iterations tolerance",
        "none": "directory engine num_workers",
    },
    ModelConfig: {
        "result": "encoder pooling window taps bottleneck projection_dropout dropouts shortlist_sizes level_weights "
        "scoring teacher_forcing classifier_start start_from start_with freeze_layers trust_remote_code"
    },
    HeadConfig: {
        "result": "candidates optimizer learning_rate weights second_moment clip_row_norm clip_global_norm",
        "resumable": "implementation group_size shard_from",
        "none": "rows_in",
    },
    OptimConfig: {
        "result": "encoder_lr classifier_lr encoder_weight_decay classifier_weight_decay beta1_high beta1_low beta2 "
        "epsilon warmup_epochs decay_epochs"
    },
    TrainConfig: {
        "result": "epochs batch_size precision gradient_clipping name_texts bucket_by_length batch_tokens "
        "validation_fraction keep keep_by patience steps budget",
        "resumable": "accumulation",
        "none": "num_workers threads_per_worker zero_stage activation_checkpointing evaluate_every hang_minutes "
        "deterministic compile",
    },
}
# As the first version of these lists gave them.
MODEL, TREE, DATA = "73248445829e9ad6", "843df301695e385e", "6aaaf4d196ffa3d2"
SECTIONS = {"model": ModelConfig, "head": HeadConfig, "optim": OptimConfig, "train": TrainConfig}


def test_evidence_beside_a_model_changes_neither_it_nor_its_data():
    config = config_with()
    changed = dataclasses.replace(config, evidence=EvidenceConfig(words=True, neighbours=True, names=True))
    for section in ("data", "tree", *SECTIONS):
        assert fingerprint_fields(config, section) == fingerprint_fields(changed, section)


@pytest.mark.parametrize("section", EFFECTS, ids=lambda section: section.__name__)
def test_every_field_declares_what_it_changes(section):
    declared = {name: effect for effect, names in EFFECTS[section].items() for name in names.split()}
    assert effects(section) == declared


def config_with(section=None, **changes):
    config = Config(output="out", data=DataConfig(source=SourceConfig(path="raw")))
    if section is None:
        return config
    return dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **changes)})


def another(value):
    """A value other than the default that the section accepts."""
    texts = {"adamw": "sgd", "fp32": "bf16", "full": "row", "shortlist": "all", "device": "host", "cls": "mean"}
    texts |= {"auto": "fp32", "weighted": "level", "fresh": "centroids", "encoder": "all", "rows": "rows", "": "(.+)"}
    texts |= {"last": "best", "nDCG@5": "P@1"}
    if isinstance(value, bool):
        return not value
    if value == 0 and isinstance(value, float):
        return 0.5  # within every range that begins at 0
    if isinstance(value, (int, float)):
        return value / 2 if 0 < value < 1 else value + 1
    return texts.get(value, f"{value} other") if isinstance(value, str) else value


@pytest.mark.parametrize("section", SECTIONS)
def test_a_run_resumes_with_other_values_of_what_changes_no_result(section):
    before = config_with()
    run = RunState(**{field.name: None for field in dataclasses.fields(RunState)} | {  # pyright: ignore
        "config": config_to_dict(before), "tree": "t",
    })  # fmt: skip
    for name, effect in effects(SECTIONS[section]).items():
        value = "30m" if name == "budget" else another(getattr(getattr(before, section), name))
        if value == getattr(getattr(before, section), name):
            continue
        with_it = {"accumulation": {"batch_size": 640}, "patience": {"keep": "best"}}.get(name, {})
        run.config["train"]["keep"] = with_it.get("keep", "last")
        now = config_with(section, **{name: value}, **with_it)
        if name == "accumulation":
            run.config["train"]["batch_size"] = 640
        if effect == "result":
            with pytest.raises(StaleArtefactError, match=f"{section}.{name}"):
                check_same_run(run, now, "t", "url")
        else:
            check_same_run(run, now, "t", "url")
        run.config["train"]["batch_size"] = before.train.batch_size
        counted = fingerprint_fields(now, section) != fingerprint_fields(before, section)
        assert counted == (effect != "none")


def test_a_checkpoint_from_before_a_field_resumes_where_the_field_has_its_default():
    saved = config_to_dict(config_with())
    del saved["model"]["freeze_layers"]
    saved["model"]["gone"] = 1
    run = RunState(**{field.name: None for field in dataclasses.fields(RunState)} | {"config": saved, "tree": "t"})  # pyright: ignore
    check_same_run(run, config_with(), "t", "url")
    with pytest.raises(StaleArtefactError, match="freeze_layers"):
        check_same_run(run, config_with("model", freeze_layers=1), "t", "url")


def test_fingerprints_of_files_that_are_there_already_stay():
    config = config_with("train", precision="fp32")  # the defaults when there was no `auto`
    commas = dataclasses.replace(config.data, source=SourceConfig(path="raw", label_separator=","))
    assert storage.fingerprint("model", *(fingerprint_fields(config, name) for name in SECTIONS), 0, "tree") == MODEL
    assert storage.fingerprint(tree_settings(config_with("tree", level_sizes=(256,)))) == TREE
    assert storage.fingerprint(fingerprint_fields(dataclasses.replace(config, data=commas), "data")) == DATA


def test_the_default_of_a_newer_field_does_not_count_in_fingerprints():
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Newer(HeadConfig):
        added: int = setting(7, since_files=True)

    config = config_with()
    before, same, other = (
        fingerprint_fields(dataclasses.replace(config, head=head), "head")
        for head in (HeadConfig(), Newer(), Newer(added=8))
    )
    assert same == before
    assert other == {**before, "added": 8}


def test_a_rotated_token_changes_no_fingerprint():
    one, two = (config_with("model", start_from=f"https://user:{secret}@host/model") for secret in ("first", "second"))
    assert fingerprint_fields(one, "model") == fingerprint_fields(two, "model")
    assert "first" not in str(config_to_dict(one))
