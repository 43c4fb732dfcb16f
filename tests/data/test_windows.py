"""Windows of long texts: every token once, in order, in as few windows as hold them; plans match the loader's batches.

Oracles: the windows joined again (hypothesis draws rules and lengths), and the batches that the loaders deliver.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.runs import MINILM
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from cxml.config import config_from_dict
from cxml.data import (
    EvalLoader,
    Ragged,
    ShardedDataset,
    StepRule,
    TrainLoader,
    WindowRule,
    collate,
    step_facts,
    window_rule,
)
from cxml.errors import ConfigError, StaleArtefactError
from cxml.preparation import load_tokenizer

BEGIN, END = 1_000_000, 2_000_000  # of special tokens; all others are numbered over the texts
NO_LABELS = 0
TOO_SMALL = r"model\.window = 2: leaves no room for text beside the 2 special tokens"


def texts_of(lengths, begin, end):
    """Texts whose own tokens are all different, with special tokens around them; short ones may have none."""
    rows, counter = [], 0
    for length in lengths:
        own = max(0, length - begin - end)
        special = length - own
        ids = [BEGIN + i for i in range(min(begin, special))]
        ids += range(counter, counter + own)
        ids += [END + i for i in range(special - min(begin, special))]
        counter += own
        rows.append(ids)
    return Ragged.from_lists(rows, np.int64)


@st.composite
def rules_and_lengths(draw):
    begin, end = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    size = draw(st.integers(begin + end + 1, 12))
    return WindowRule(size, begin, end), draw(st.lists(st.integers(1, 60), min_size=1, max_size=8))


@settings(deadline=None)
@given(rules_and_lengths())
def test_every_token_is_in_one_window_and_the_windows_of_a_text_lie_together_in_order(drawn):
    rule, lengths = drawn
    tokens = texts_of(lengths, rule.begin, rule.end)
    windows, counts = rule.cut(tokens)
    assert len(windows) == counts.sum()
    place = 0
    for row, count in enumerate(counts.tolist()):
        text = tokens.slice(row, row + 1).values.tolist()
        own = [windows.slice(i, i + 1).values.tolist() for i in range(place, place + count)]
        place += count
        if len(text) <= rule.size:
            assert own == [text]
            continue
        first, last = text[: rule.begin], text[len(text) - rule.end :]
        for window in own:
            assert len(window) <= rule.size
            assert window[: rule.begin] == first
            assert window[len(window) - rule.end :] == last
        content = [token for window in own for token in window[rule.begin : len(window) - rule.end]]
        assert content == text[rule.begin : len(text) - rule.end]
        sizes = [len(window) for window in own]
        assert max(sizes) - min(sizes) <= 1
        assert count == -(-len(content) // (rule.size - rule.begin - rule.end)), "as few as hold them"


@settings(deadline=None)
@given(rules_and_lengths())
def test_counts_and_widths_are_those_of_the_windows(drawn):
    rule, lengths = drawn
    tokens = texts_of(lengths, rule.begin, rule.end)
    windows, counts = rule.cut(tokens)
    np.testing.assert_array_equal(rule.counts(tokens.lengths), counts)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    np.testing.assert_array_equal(rule.widths(tokens.lengths), np.maximum.reduceat(windows.lengths, starts))


@settings(deadline=None)
@given(rules_and_lengths(), st.booleans())
def test_a_batch_takes_no_more_than_the_rule_says_of_its_longest_text(drawn, pads):
    rule, lengths = drawn
    rule = WindowRule(rule.size, rule.begin, rule.end, pads)
    batch = batch_of(texts_of(lengths, rule.begin, rule.end), rule)
    assert batch.input_ids.numel() <= len(lengths) * rule.most_tokens(np.array(lengths)).max()
    assert batch.size == len(lengths)


def batch_of(tokens, rule, **options):
    none = Ragged(np.zeros(NO_LABELS, np.int32), np.zeros(len(tokens) + 1, np.int64))
    return collate(tokens, none, pad_id=0, global_size=len(tokens), rule=rule, **options)


@settings(deadline=None)
@given(rules_and_lengths())
def test_a_batch_has_few_numbers_of_windows_where_it_is_padded_and_those_it_needs_elsewhere(drawn):
    rule, lengths = drawn
    tokens = texts_of(lengths, rule.begin, rule.end)
    exact, padded = (batch_of(tokens, WindowRule(rule.size, rule.begin, rule.end, pads)) for pads in (False, True))
    if exact.windows is None:
        assert padded.windows is None
        return
    total = len(exact.windows.texts)
    assert total == rule.counts(tokens.lengths).sum() == len(exact.input_ids)
    assert total <= len(padded.input_ids) <= 1.13 * total + 1
    added = padded.windows.texts[total:]
    assert (added == len(lengths)).all(), "they belong to no text"
    assert (padded.attention_mask[total:].sum(1) == 1).all(), "attention over nothing is no number"
    assert (padded.attention_mask[:total] == exact.attention_mask).all()


def test_the_numbers_of_windows_of_padded_batches_are_few():
    rule = WindowRule(8, 1, 1, pads=True)
    numbers = {rule.padded(np.array([total - 100, *[1] * 100])) for total in range(128, 1024)}
    assert len(numbers) <= 3 * 8 + 1


def test_texts_that_fit_a_window_make_the_batch_that_they_make_without():
    tokens = texts_of([3, 8, 5], 1, 1)
    whole, windowed = batch_of(tokens, None), batch_of(tokens, WindowRule(8, 1, 1))
    assert windowed.windows is None
    assert (whole.input_ids == windowed.input_ids).all()
    assert (whole.attention_mask == windowed.attention_mask).all()


def test_the_first_texts_of_a_batch_keep_their_windows():
    batch = batch_of(texts_of([20, 3, 12], 1, 1), WindowRule(8, 1, 1, pads=True)).first(2)
    assert batch.windows is not None
    assert (batch.size, batch.windows.texts.tolist()) == (2, [0, 0, 0, 1])
    assert len(batch.input_ids) == 4
    assert batch.row_lengths.tolist() == [8, 8, 8, 3]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, write_data):
    return ShardedDataset(write_data(str(tmp_path_factory.mktemp("windows")), 300, shard_rows=100).url, "train")


@pytest.mark.parametrize(
    "rule", [{}, {"bucket_by_length": True}, {"batch_tokens": 200}], ids=["plain", "length", "tokens"]
)
def test_the_plan_of_the_steps_is_what_the_loader_hands_over(dataset, rule):
    windows = WindowRule(6, 1, 0)
    planned = step_facts(
        dataset.lengths, StepRule(batch_size=32, windows=windows, **rule), seed=3, parts=2, num_texts=300
    )
    loader = TrainLoader(
        dataset, batch_size=32, seed=3, rank=0, world_size=1, accumulation=2, pad_id=0, windows=windows, **rule
    )
    steps = list(loader.epoch(0))
    padded = np.array([sum(batch.input_ids.numel() for batch in step) for step in steps])
    assert planned.steps_per_epoch == len(steps)
    assert (planned.mean_tokens, planned.most_tokens) == (pytest.approx(padded.mean()), padded.max())
    assert sum(batch.size for step in steps for batch in step) == 300
    if "batch_tokens" in rule:
        assert padded.max() <= 200
    assert any(batch.windows is not None for step in steps for batch in step)


def test_an_evaluation_sees_every_text_once_with_all_of_its_windows(dataset):
    seen = []
    for rows, batch in EvalLoader(dataset, batch_size=7, rank=0, world_size=1, pad_id=0, windows=WindowRule(6, 1, 0)):
        counts = np.ones(batch.size, int) if batch.windows is None else batch.windows.counts
        np.testing.assert_array_equal(counts, WindowRule(6, 1, 0).counts(dataset.lengths[rows]))
        seen += rows.tolist()
    assert sorted(seen) == list(range(300))


def test_a_loader_of_other_windows_refuses_the_state(dataset):
    options = {"batch_size": 32, "seed": 3, "rank": 0, "world_size": 1, "accumulation": 1, "pad_id": 0}
    whole, cut = TrainLoader(dataset, **options), TrainLoader(dataset, **options, windows=WindowRule(6, 1, 0))
    with pytest.raises(StaleArtefactError, match="window = 6"):
        whole.load_state_dict(cut.state_dict())
    earlier = {name: value for name, value in whole.state_dict().items() if name != "window"}
    assert whole.load_state_dict(earlier) == (0, 0)


def config_of(max_length, window):
    return config_from_dict({
        "auto": [], "output": "unused", "data": {"source": {"path": "unread"}, "max_length": max_length},
        "model": {"encoder": MINILM, "window": window},
    })  # fmt: skip


@pytest.mark.parametrize(
    ("max_length", "window", "problem"),
    [
        (513, 0, r"data\.max_length = 513: the encoder has 512 positions.*model\.window 256"),
        (2048, 513, r"model\.window = 513: the encoder has 512 positions.*512 or less"),
        (2048, 2, TOO_SMALL),
    ],
)
def test_what_the_encoder_cannot_see_is_refused_with_the_remedy(max_length, window, problem):
    with pytest.raises(ConfigError, match=problem):
        load_tokenizer(config_of(max_length, window))


def test_long_texts_are_taken_where_windows_fit_the_encoder():
    load_tokenizer(config_of(100_000, 512))
    assert window_rule(config_of(2048, 256)) == WindowRule(256, 1, 1)
    assert window_rule(config_of(256, 256)) is None
    assert window_rule(config_of(256, 0)) is None


@pytest.mark.parametrize(("template", "counts"), [("<s> <s> $A", (2, 0)), ("$A </s>", (0, 1)), ("$A", (0, 0))])
def test_special_tokens_are_counted_wherever_a_tokenizer_puts_them(template, counts):
    vocabulary = {"a": 0, "<s>": 1, "</s>": 2}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    special = [("<s>", 1), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single=template, special_tokens=special
    )
    found = window_rule(config_of(64, 32), tokenizer)
    tokenizer.enable_padding(length=20, pad_id=0, pad_token="a")
    assert found == window_rule(config_of(64, 32), tokenizer), "padding is not counted"
    assert found is not None
    assert (found.begin, found.end) == counts


def test_a_tokenizer_that_shows_no_special_tokens_is_refused():
    tokenizer = Tokenizer(models.BPE({"b": 0}, []))
    with pytest.raises(ConfigError, match=r"model\.window = 32: .*finds no token"):
        window_rule(config_of(64, 32), tokenizer)
