"""The rules for settings: valid for any data set, encoder and machine, monotone, and equal to published settings.

Oracles: the config's own checks (hypothesis), and the settings that the papers publish.
"""

import dataclasses
import io
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from cxml.config import CHOOSABLE, config_from_dict, plain_values
from cxml.data import StepOrder, StepRule, num_held_out, require_parts
from cxml.model.encoder import parse_taps
from cxml.preparation.lengths import covering_length
from cxml.settings import (
    Choice,
    EncoderFacts,
    Facts,
    MachineFacts,
    choices_table,
    choose,
    fit_to_labels,
)
from cxml.tree.shape import check_level_sizes, level_sizes_for

ENCODER = EncoderFacts(
    num_layers=6, hidden_size=384, num_parameters=12 * 6 * 384**2, has_separate_layers=True, pooling="mean"
)
CPU = MachineFacts(has_accelerator=False, free_bytes=8 << 30, has_faiss=True)
FACTS = Facts(
    num_texts=76_194, num_validation=0, words_per_text=12, num_labels=13_728, texts_per_label=4, mean_length=18,
    long_length=50, name_pattern="", names_describe=False, encoder=ENCODER, machine=CPU,
)  # fmt: skip

encoders = st.builds(
    EncoderFacts,
    num_layers=st.integers(1, 48),
    hidden_size=st.sampled_from([32, 128, 384, 768, 1024, 4096]),
    num_parameters=st.integers(10_000, 10**10),
    pooling=st.sampled_from([None, "cls", "mean"]),
)
machines = st.builds(
    MachineFacts, has_accelerator=st.booleans(), free_bytes=st.integers(1 << 20, 1 << 40), has_faiss=st.booleans()
)
any_facts = st.builds(
    Facts,
    num_texts=st.integers(10, 10**8),
    num_validation=st.one_of(st.just(0), st.integers(1, 10**6)),
    words_per_text=st.one_of(st.just(0.0), st.floats(1, 1000)),
    num_labels=st.integers(1, 10**8),
    texts_per_label=st.floats(0, 10**8),
    mean_length=st.floats(3, 512),
    long_length=st.integers(3, 512),
    name_pattern=st.sampled_from(["", "(.+)"]),
    names_describe=st.booleans(),
    encoder=encoders,
    machine=machines,
)


def config_of(**sections):
    data = {"source": {"kind": "icd10cm"}, "max_length": 64}
    return config_from_dict({"output": "run", "data": data, **sections})


def chosen(facts=FACTS, **sections):
    """The values by name that are chosen for these facts."""
    return {choice.name: choice.value for choice in choose(config_of(**sections), facts)[1]}


@given(
    st.integers(10, 5000),
    st.integers(0, 3000),
    st.sampled_from([1, 2, 3, 8]),
    st.sampled_from([1, 4]),
    st.integers(1, 80),
)
def test_batches_by_length_are_chosen_where_each_has_a_text_for_every_micro_batch(texts, names, workers, parts, size):
    train = {"num_workers": workers, "accumulation": parts, "batch_size": max(size, workers * parts)}
    values = chosen(dataclasses.replace(FACTS, num_texts=texts), train=train)
    if values["train.bucket_by_length"]:
        rule = StepRule(batch_size=train["batch_size"], bucket_by_length=True)
        lengths = np.random.default_rng(0).integers(3, 50, texts + names)
        for epoch in range(2):
            _, bounds = StepOrder(lengths, rule, 0).epoch(epoch)
            assert np.diff(bounds).min() >= workers * parts
        require_parts(lengths, rule, world_size=workers, accumulation=parts)


def test_few_texts_on_one_process_still_have_batches_by_length():
    few = dataclasses.replace(FACTS, num_texts=1000)
    assert chosen(few)["train.bucket_by_length"]
    assert not chosen(few, train={"num_workers": 2})["train.bucket_by_length"]
    assert chosen(FACTS, train={"num_workers": 2})["train.bucket_by_length"]


@given(facts=any_facts, workers=st.sampled_from([1, 3, 64, 1000]))
def test_any_data_set_encoder_and_machine_get_settings_that_the_config_accepts(facts, workers):
    config, choices = choose(config_of(train={"num_workers": workers}), facts)
    assert config.auto == ()
    assert {choice.name for choice in choices} == CHOOSABLE.keys() - {"data.max_length"}
    assert plain_values(config, CHOOSABLE) == {"data.max_length": 64} | {each.name: each.value for each in choices}
    assert all(each.reason for each in choices)
    check_level_sizes(facts.num_labels, config.tree.sizes)
    levels = config.num_levels
    assert len(config.model.taps) == len(config.model.dropouts) == levels
    parse_taps(config.model.taps, facts.encoder.num_layers)
    assert len(config.model.shortlist_sizes) == levels - 1
    assert all(k <= size for k, size in zip(config.model.shortlist_sizes, config.tree.sizes, strict=True))
    assert 0 <= config.model.freeze_layers < facts.encoder.num_layers
    assert 1e-6 < config.optim.encoder_lr < 1e-2
    assert 1e-5 < config.optim.classifier_lr < 1
    assert config.optim.warmup_epochs + config.optim.decay_epochs <= config.train.epochs + 0.05
    assert config.train.epochs <= 40


@given(facts=any_facts, labels=st.lists(st.integers(1, 10**8), min_size=2, max_size=2))
def test_more_labels_get_no_fewer_clusters_and_no_more_of_them_are_all_scored(facts, labels):
    few, many = (chosen(dataclasses.replace(facts, num_labels=number)) for number in sorted(labels))
    assert [*few["tree.level_sizes"], 0][-2:][0] <= [*many["tree.level_sizes"], 0][-2:][0]
    assert (few["head.candidates"], many["head.candidates"]) != ("shortlist", "all") or not many["tree.level_sizes"]


@given(facts=any_facts, texts=st.lists(st.integers(10, 10**8), min_size=2, max_size=2))
def test_more_texts_get_no_more_epochs_and_no_smaller_batches(facts, texts):
    few, many = (chosen(dataclasses.replace(facts, num_texts=number)) for number in sorted(texts))
    assert few["train.epochs"] >= many["train.epochs"]
    assert few["train.batch_size"] <= many["train.batch_size"]


@given(facts=any_facts, keep=st.sampled_from(["last", "best", "refit"]), interval=st.integers(0, 5))
def test_training_stops_early_only_where_validation_selects_the_epoch(facts, keep, interval):
    found = chosen(facts, train={"keep": keep, "evaluate_every": interval})
    waits = found["train.patience"] * max(interval, 1)
    assert (waits > 0) == (keep != "last")
    if waits:
        assert max(3, found["train.epochs"] / 4) <= waits < max(3, found["train.epochs"] / 4) + max(interval, 1)


def test_a_given_patience_and_a_choice_of_it_are_independent_of_the_rule_for_what_a_run_keeps():
    few = dataclasses.replace(FACTS, num_texts=3000)
    assert (chosen(few)["train.keep"], chosen(few)["train.patience"]) == ("refit", 5)
    assert chosen(few, train={"patience": 2})["train.keep"] == "refit"
    assert (chosen()["train.keep"], chosen()["train.patience"]) == ("last", 0)
    assert chosen(train={"patience": 2})["train.keep"] == "best"


@given(num_labels=st.integers(1, 10**8))
def test_levels_are_powers_of_two_whose_leaves_hold_about_seven_labels(num_labels):
    sizes = level_sizes_for(num_labels)
    assert all(size & (size - 1) == 0 for size in sizes)
    assert all(large == 8 * small for small, large in itertools.pairwise(sizes))
    if sizes:
        assert 7 / math.sqrt(2) <= num_labels / sizes[-1] * (1 + 1e-9)
        assert num_labels / sizes[-1] <= 7 * math.sqrt(2) * (1 + 1e-9)
        assert sizes[0] <= 8192
    else:
        assert num_labels < 100


@pytest.mark.parametrize(
    ("labels", "sizes"), [(13_728, (256, 2048)), (28_163, (512, 4096)), (501_070, (1024, 8192, 65536)), (300, (32,))]
)
def test_known_sets_get_the_levels_of_their_published_configs(labels, sizes):
    assert level_sizes_for(labels) == sizes


@given(lengths=st.lists(st.integers(2, 3000), min_size=1), longest=st.integers(16, 512))
def test_the_longest_text_is_a_multiple_of_8_that_cuts_one_text_in_a_hundred_or_what_the_encoder_reads(
    lengths, longest
):
    found = covering_length(np.array(lengths), longest)
    assert found <= longest
    if found < longest:
        assert found % 8 == 0
        assert np.mean(np.array(lengths) <= found) >= 0.99
        assert found == 16 or found - 8 < np.quantile(lengths, 0.99, method="higher")


@pytest.mark.parametrize("name", sorted(CHOOSABLE.keys() - {"data.max_length"}))
def test_a_value_that_the_user_gives_stays_and_is_not_listed(name):
    values = {
        "tree.level_sizes": [4, 128], "model.taps": ["1", "2", "3"], "model.shortlist_sizes": [3, 9],
        "model.dropouts": [0.1, 0.2, 0.3], "model.pooling": "cls", "model.classifier_start": "fresh",
        "head.candidates": "shortlist", "train.name_texts": "x(.+)", "train.bucket_by_length": False,
        "train.validation_fraction": 0.3, "train.keep": "best", "evidence.words": False, "evidence.neighbours": False,
        "evidence.names": True,
    }  # fmt: skip
    value = values.get(name, 7)
    section, field = name.split(".")
    config, choices = choose(config_of(**{section: {field: value}}), FACTS)
    assert plain_values(config, [name])[name] == value
    assert name not in {choice.name for choice in choices}


def test_the_number_of_levels_follows_a_list_with_a_value_per_level():
    assert len(chosen(model={"dropouts": [0.0, 0.1, 0.2, 0.3]})["tree.level_sizes"]) == 3
    assert len(chosen(model={"shortlist_sizes": [8]})["model.taps"]) == 2


def test_candidates_fit_the_given_tree_and_head():
    assert chosen(tree={"level_sizes": []})["head.candidates"] == "all"
    assert chosen(head={"implementation": "zero3"}, train={"zero_stage": 3})["head.candidates"] == "shortlist"


def test_a_batch_has_a_text_for_every_micro_batch_of_every_process():
    assert chosen(train={"num_workers": 40, "accumulation": 3})["train.batch_size"] == 120


def test_more_epochs_get_a_longer_decay():
    assert chosen(train={"epochs": 40})["optim.decay_epochs"] > chosen(train={"epochs": 4})["optim.decay_epochs"]


def test_a_run_that_starts_with_all_weights_of_another_keeps_its_classifiers():
    assert chosen(model={"start_from": "other", "start_with": "all"})["model.classifier_start"] == "fresh"


def test_four_times_the_batch_gets_twice_the_learning_rate():
    large, small = (chosen(train={"batch_size": size})["optim.encoder_lr"] for size in (256, 64))
    assert large == pytest.approx(2 * small, rel=0.05)


def test_levels_that_are_left_open_fit_lists_with_a_value_per_level():
    config = fit_to_labels(config_of(model={"shortlist_sizes": [4]}), 8)
    assert config.num_levels == 2


def test_the_papers_encoder_gets_the_papers_rate_and_layers():
    bert = EncoderFacts(
        num_layers=12, hidden_size=768, num_parameters=85_000_000, has_separate_layers=True, pooling=None
    )
    gpu = MachineFacts(has_accelerator=True, free_bytes=80 << 30, has_faiss=False)
    found = chosen(dataclasses.replace(FACTS, num_labels=501_070, num_texts=1_779_881, encoder=bert, machine=gpu),
                   train={"batch_size": 64})  # fmt: skip
    assert found["optim.encoder_lr"] == 1e-4
    assert found["model.taps"] == ["5+6", "8", "10", "12"]
    assert found["model.shortlist_sizes"] == [128, 256, 512]
    assert found["model.freeze_layers"] == 0


@given(facts=any_facts)
def test_evidence_and_selection_are_chosen_only_with_texts_to_validate_them_on(facts):
    found = chosen(facts)
    held_out = facts.num_texts * found["train.validation_fraction"]
    assert held_out == 0 or (50 <= round(held_out) <= 2200 and not facts.num_validation)
    validates = max(facts.num_validation, round(held_out)) >= 50
    sources = [found[f"evidence.{name}"] for name in ("words", "neighbours", "names")]
    assert validates or (not any(sources) and found["train.keep"] == "last")


@pytest.mark.parametrize(("num_validation", "is_used"), [(1, False), (49, False), (50, True)])
def test_a_few_validation_texts_choose_neither_epoch_nor_evidence(num_validation, is_used):
    found = chosen(dataclasses.replace(FACTS, num_texts=3000, num_validation=num_validation, names_describe=True))
    assert found["train.validation_fraction"] == 0
    assert found["train.keep"] == ("refit" if is_used else "last")
    assert {found[f"evidence.{name}"] for name in ("words", "neighbours", "names")} == {is_used}


def test_without_faiss_the_words_are_the_only_evidence():
    bare = dataclasses.replace(FACTS, names_describe=True, machine=dataclasses.replace(CPU, has_faiss=False))
    found = chosen(bare)
    assert (found["evidence.words"], found["evidence.neighbours"], found["evidence.names"]) == (True, False, False)
    assert chosen(dataclasses.replace(bare, machine=CPU))["evidence.names"]


def test_evidence_that_would_not_fit_in_memory_is_off():
    small = dataclasses.replace(CPU, free_bytes=1 << 20)
    found = chosen(dataclasses.replace(FACTS, names_describe=True, machine=small))
    assert not any(found[f"evidence.{name}"] for name in ("words", "neighbours", "names"))


def test_texts_are_held_out_for_evidence_that_the_user_wants_however_few_there_are():
    few = dataclasses.replace(FACTS, num_texts=100)
    assert chosen(few)["train.validation_fraction"] == 0
    assert chosen(few, evidence={"words": True})["train.validation_fraction"] == 0.1
    assert chosen(few, train={"keep": "best"})["train.validation_fraction"] == 0.1
    assert chosen(few, train={"evaluate_every": 1})["train.validation_fraction"] == 0.1


def test_a_small_run_trains_on_all_texts_in_the_end_unless_it_has_a_time_budget():
    few = dataclasses.replace(FACTS, num_texts=3000)
    assert chosen(few)["train.keep"] == "refit"
    assert chosen(few, train={"budget": "30m"})["train.keep"] == "last"
    assert chosen(few, train={"validation_fraction": 0.0})["train.keep"] == "last"
    assert chosen(few, train={"steps": 100})["train.keep"] == "last"  # a final fit has no limit of steps
    assert chosen(few, evaluate={"top_k": [1, 3]})["train.keep"] == "refit"


def test_patience_chooses_a_training_that_selects_its_epoch_for_any_number_of_texts():
    few = dataclasses.replace(FACTS, num_texts=700, num_validation=0)
    for facts, more, keep in (
        (few, {}, "refit"),
        (few, {"budget": "30m"}, "best"),
        (few, {"steps": 100}, "best"),
        (dataclasses.replace(few, num_texts=100_000), {}, "best"),
        (dataclasses.replace(few, num_texts=60), {}, "best"),
    ):
        found = chosen(facts, train={"patience": 2, **more})
        assert found["train.keep"] == keep
        assert found["train.validation_fraction"] > 0


@given(st.integers(2, 2000))
def test_a_chosen_share_holds_out_a_text_and_leaves_one(num_texts):
    facts = dataclasses.replace(FACTS, num_texts=num_texts, num_validation=0)
    share = chosen(facts, train={"keep": "best"})["train.validation_fraction"]
    assert 1 <= num_held_out(num_texts, share) < num_texts


def test_a_choice_names_its_field_value_and_reason():
    choice = next(each for each in choose(config_of(), FACTS)[1] if each.name == "model.classifier_start")
    assert choice == Choice("model.classifier_start", "centroids", "half of the labels have at most 4 texts")


def test_the_table_shows_brackets_of_values_and_reasons():
    choices = [
        Choice("train.name_texts", "^([a-z]+)", "x"),
        Choice("evidence.names", False, "install 'cxml[neighbours]'"),
    ]
    console = Console(width=120, file=io.StringIO())
    console.print(choices_table(choices))
    shown = console.file.getvalue()
    assert "^([a-z]+)" in shown
    assert "cxml[neighbours]" in shown
