"""Inputs of `Predictor` and `cxml.predict`: any flat sequence of strings works; all else is refused by position.

Oracle: the predictions for a plain list.
"""

import enum
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from support.untrained import untrained_export
from tokenizers import Tokenizer

import cxml
from cxml.commands import evaluate, predict
from cxml.errors import ConfigError, CxmlError, DataError
from cxml.prediction import adjust_logits, weigh_labels

TEXTS = ["anaemia", "a fracture of the wrist", ""]
NAMES = [*(f"label {i}" for i in range(18)), "twice", "twice"]


class Words(str, enum.Enum):
    FIRST = TEXTS[0]
    SECOND = TEXTS[1]
    THIRD = TEXTS[2]


class OldSequence:
    """A sequence by the old protocol alone."""

    def __getitem__(self, place):
        return TEXTS[place]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return untrained_export(tmp_path_factory.mktemp("untrained"), NAMES)


@pytest.fixture(scope="module")
def predictor(exported):
    return cxml.Predictor.from_pretrained(exported)


GOOD = {
    "list": list,
    "tuple": tuple,
    "generator": lambda texts: (text for text in texts),
    "map": lambda texts: map(str, texts),
    "values of a dict": lambda texts: dict(enumerate(texts)).values(),
    "old sequence": lambda _: OldSequence(),
    "enum": lambda _: list(Words),
    "NumPy str": np.array,
    "NumPy object": lambda texts: np.array(texts, object),
    "NumPy StringDType": lambda texts: np.array(texts, np.dtypes.StringDType()),
    "list of NumPy's strings": lambda texts: list(np.array(texts)),
    "Series": lambda texts: pd.Series(texts, index=[7, 5, 5]),
    "Series string": lambda texts: pd.Series(texts, dtype="string"),
    "Series category": lambda texts: pd.Series(texts, dtype="category"),
    "Series of Arrow's strings": lambda texts: pd.Series(texts, dtype="string[pyarrow]"),
    "Index": pd.Index,
    "Arrow": pa.array,
    "Arrow large": lambda texts: pa.array(texts, pa.large_string()),
    "Arrow view": lambda texts: pa.array(texts, pa.string_view()),
    "Arrow dictionary": lambda texts: pa.array(texts).dictionary_encode(),
    "Arrow chunks": lambda texts: pa.chunked_array([texts[:1], texts[1:]]),
    "Arrow chunks of dictionaries": lambda texts: pa.chunked_array([texts[:1], texts[1:]]).dictionary_encode(),
    "column of a table": lambda texts: pa.table({"text": texts})["text"],
}


@pytest.mark.parametrize("kind", GOOD)
def test_every_flat_sequence_of_strings_gives_what_a_list_gives(predictor, kind):
    expected = predictor.predict(TEXTS, 3)
    np.testing.assert_array_equal(predictor.predict(GOOD[kind](TEXTS), 3).labels, expected.labels)
    assert [labels[0].label for labels in predictor.explain(GOOD[kind](TEXTS), 1)] == expected.labels[:, 0].tolist()
    np.testing.assert_array_equal(predictor.embed(GOOD[kind](TEXTS)), predictor.embed(TEXTS))


NO_SEQUENCES = [
    "a text", "", b"a text", bytearray(b"a text"), None, 1, 1.5, True, Path("a"), len, {"a": 1}, {"a", "b"},
    frozenset({"a"}), np.array("a"), np.array([["a"]]), pd.DataFrame({"text": ["a"]}), pa.table({"text": ["a"]}),
    pa.record_batch({"text": ["a"]}),
]  # fmt: skip


@pytest.mark.parametrize("texts", NO_SEQUENCES, ids=lambda texts: type(texts).__name__)
def test_what_is_not_a_flat_sequence_is_refused(predictor, texts):
    for call in (predictor.predict, predictor.explain, predictor.embed):
        with pytest.raises(ConfigError, match=r"^texts = .*Give a sequence of strings, one per text"):
            call(texts)


NO_TEXTS = [
    None, float("nan"), np.nan, pd.NA, pd.NaT, 1, 10**5000, np.int64(1), True, 0.5, b"a", ["a"], ["a", "b"], ("a", "b"),
    ("a",), {"a": 1}, Path("a"), np.array(["a"]), np.array([np.nan, 1]), torch.zeros(2), pa.scalar("a"),
    np.ma.masked, object(),
]  # fmt: skip


@pytest.mark.parametrize("text", NO_TEXTS, ids=lambda text: type(text).__name__)
def test_an_item_that_is_not_a_string_is_refused_with_its_position(predictor, text):
    with pytest.raises(ConfigError, match=r"^texts\[1\] = .*Give a sequence of strings"):
        predictor.predict(["a text", text, "another"])


@pytest.mark.parametrize(
    "texts",
    [pd.Series(["a", None]), pd.Series(["a", None], dtype="string"), pd.Series(["a", None], dtype="category"),
     pa.array(["a", None]), pa.array(["a", None]).dictionary_encode(), np.ma.masked_array(["a", "b"], [0, 1]),
     np.array(["a", None], object)],
)  # fmt: skip
def test_a_missing_value_of_a_column_is_refused_with_its_position(predictor, texts):
    with pytest.raises(ConfigError, match=r"^texts\[1\] = "):
        predictor.predict(texts)


@pytest.mark.parametrize("text", ["a\ud800b", "a\udfff", "a\udc80\ud800"])
def test_a_lone_surrogate_is_refused_with_the_positions_of_text_and_character(predictor, text):
    for call in (predictor.predict, predictor.explain, predictor.embed):
        with pytest.raises(ConfigError, match=r"^texts\[2\] = .*character 1 is .*surrogate"):
            call(["a text", "\U00010000", text])


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_the_command_refuses_a_lone_surrogate_with_its_line(exported, tmp_path, capsys, form):
    file = tmp_path / f"texts.{form}"
    rows = [{"text": "sound", "key": "1"}, {"text": "a\ud800b", "key": "2"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if form == "csv":
        file.write_bytes(b"text,key\nsound,1\na\xed\xa0\x80b,2\n")
    assert predict.main([exported, str(file), "--output", str(tmp_path / "out")]) == 2
    assert f"{file}, line {2 if form == 'jsonl' else 3}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["", " ", "\t\n\r\v\f", "a\0b", "\0" * 100, "".join(map(chr, range(32))), "\ufeff", "\u202e", "\uffff",
             "\U0010ffff", "e" + "\u0301" * 1000, "word " * 40_000],
)  # fmt: skip
def test_any_other_text_is_predicted(predictor, text):
    found = predictor.predict([text, "a text"], 3)
    assert (found.labels >= 0).all()
    assert np.isfinite(found.scores).all()


def test_a_text_without_tokens_is_predicted(predictor):
    """Some tokenizers add no special tokens."""
    rules = json.loads(predictor.parts.tokenizer.to_str()) | {"post_processor": None}
    bare = cxml.Predictor(replace(predictor.parts, tokenizer=Tokenizer.from_str(json.dumps(rules))))
    found = bare.predict(["", "a text", " "], 3)
    assert (found.labels >= 0).all()
    assert np.isfinite(found.scores).all()
    np.testing.assert_array_equal(found.labels[1:2], bare.predict(["a text"], 3).labels)


@pytest.mark.parametrize("k", [0, -1, True, np.bool_(1), 1.0, np.float32(2), float("nan"), "3", None, [3], np.array(2)])
def test_a_k_that_is_not_a_number_of_labels_is_refused(predictor, k):
    for call in (predictor.predict, predictor.explain):
        with pytest.raises(ConfigError, match=r"^k = "):
            call(["a text"], k)


@pytest.mark.parametrize("k", [2, np.int64(2), np.uint8(2), np.int32(2)])
def test_numpys_integers_are_numbers_of_labels(predictor, k):
    assert predictor.predict(["a text"], k).labels.shape == (1, 2)


@pytest.mark.parametrize("size", [0, -1, True, 1.5, "8", None])
def test_an_impossible_batch_size_is_refused(exported, size):
    with pytest.raises(ConfigError, match=r"^batch_size = "):
        cxml.Predictor.from_pretrained(exported, batch_size=size)


def test_numpys_integers_are_batch_sizes(exported, predictor):
    one = cxml.Predictor.from_pretrained(exported, batch_size=np.int64(1))
    np.testing.assert_array_equal(one.predict(TEXTS, 3).labels, predictor.predict(TEXTS, 3).labels)


@pytest.mark.parametrize("beam", [3, (2, 2), (0,), (1.5,), (True,), "4", [None], {2: 2}])
def test_an_impossible_beam_is_refused(predictor, beam):
    with pytest.raises(ConfigError, match=r"^beam = "):
        predictor.predict(["a text"], beam=beam)


def test_a_beam_is_any_sequence_of_integers(predictor):
    expected = predictor.predict(TEXTS, 3, beam=(4,)).labels
    for beam in ([4], np.array([4]), (np.int64(4),), (2**63 - 1,), (10**30,)):
        np.testing.assert_array_equal(predictor.predict(TEXTS, 3, beam=beam).labels, expected)


@pytest.mark.parametrize(
    "excluded", [{1: [0]}, {-1: [0]}, {"0": [0]}, {True: [0]}, {0: 1}, {0: ["label 1"]}, {0: "label 1"}, {0: [20]},
                 {0: [-1]}, {0: [0.0]}, {0: [True]}, [0], "ab"],
)  # fmt: skip
def test_impossible_exclusions_are_refused(predictor, excluded):
    with pytest.raises(ConfigError, match=r"^excluded"):
        predictor.predict(["a text"], excluded=excluded)


@pytest.mark.parametrize(
    "labels", [[3, 1], (1, 3), {3, 1}, [3, 1, 3], np.array([1, 3]), np.array([1, 3], np.uint8), iter([3, 1]),
               range(1, 4, 2), ["label 3", 1], np.array(["label 1", "label 3"]), pd.Series(["label 3", "label 1"]),
               pd.Series([1, 3]), pa.array([1, 3]), pa.array(["label 1", "label 3"])],
)  # fmt: skip
def test_labels_are_given_by_any_sequence_of_ids_and_names(predictor, labels):
    few = predictor.restricted_to(labels)
    assert set(few.predict(TEXTS, 2).labels.ravel().tolist()) == {1, 3}


@pytest.mark.parametrize(
    ("labels", "problem"),
    [([], "is empty"), (np.array([]), "is empty"), (iter(()), "is empty"),
     ([1, "label 99"], r"labels\[1\] = 'label 99': is not a label"), ([20], r"\[0\] = 20"), ([-1], r"\[0\] = -1"),
     ([10**30], r"\[0\]"), (["1"], r"\[0\] = '1'"), ([1, True], r"\[1\] = True.*flatnonzero"),
     (np.zeros(20, bool), "flatnonzero"), ([1.0], r"\[0\] = 1.0"), ([1.5], r"\[0\] = 1.5"),
     ([float("nan")], r"\[0\] = nan"), ([None], r"\[0\] = None"), ([[1]], r"\[0\]"), ([b"label 1"], r"\[0\]"),
     ("label 1", "is one string"), (1, "a flat sequence"), (None, "a flat sequence"), ({1: 2}, "a flat sequence"),
     (np.array([[1]]), "a flat sequence"), (["\ud800"], r"\[0\]"), (["twice"], "labels 18, 19 have this name")],
)  # fmt: skip
def test_labels_that_cannot_be_told_are_refused_with_their_position(predictor, labels, problem):
    with pytest.raises(ConfigError, match=problem):
        predictor.restricted_to(labels)


@pytest.mark.parametrize("device", ["cdua", "", "meta", "privateuseone", -1, True, 1.5, [], "cpu:x"])
def test_a_device_that_does_not_exist_is_refused(exported, device):
    with pytest.raises(ConfigError, match=r"^device = .*Use None"):
        cxml.Predictor.from_pretrained(exported, device=device)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="for machines without an accelerator")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", torch.device("cuda"), "mps", "xpu", 0])
def test_a_device_that_this_machine_lacks_is_refused(exported, device):
    with pytest.raises(ConfigError, match=r"^device = .*cannot be used here"):
        cxml.Predictor.from_checkpoint(exported, device=device)


def test_a_device_may_be_a_string(exported, predictor):
    on_cpu = cxml.Predictor.from_pretrained(exported, device="cpu")
    assert on_cpu.device == torch.device("cpu")


def test_a_path_is_as_good_as_a_string(exported, predictor, tmp_path):
    for load in (cxml.Predictor.from_checkpoint, cxml.Predictor.from_pretrained):
        np.testing.assert_array_equal(load(Path(exported)).predict(TEXTS).labels, predictor.predict(TEXTS).labels)
    predictor.save_pretrained(tmp_path / "again")
    again = cxml.Predictor.from_pretrained(tmp_path / "again")
    np.testing.assert_array_equal(again.predict(TEXTS).labels, predictor.predict(TEXTS).labels)


@pytest.mark.parametrize("place", [None, "", b"model", 3, ["model"], "a\0b", "\ud800"])
def test_what_is_not_a_place_is_refused(predictor, place):
    for call in (cxml.Predictor.from_checkpoint, cxml.Predictor.from_pretrained, predictor.save_pretrained):
        with pytest.raises(ConfigError, match="must be a path or URL"):
            call(place)


def test_a_place_without_a_model_is_refused_with_what_is_there(exported, tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    found = {
        tmp_path / "nowhere": "the folder does not exist",
        tmp_path / "empty": "the folder is empty",
        tmp_path / "file": "it is a file",
        Path(exported, "manifest.json"): "it is a file",
        Path(exported, "tree"): "the folder has other content",
        "memory://nowhere/model": "the folder does not exist",
    }
    for place, what in found.items():
        with pytest.raises(DataError, match=f"no trained model: {what}. Give a run's output"):
            cxml.Predictor.from_checkpoint(place)
        with pytest.raises(DataError, match=f"no exported model: {what}. Give a run's output"):
            cxml.Predictor.from_pretrained(place)
    with pytest.raises(DataError, match="neither an exported folder nor a downloadable repository"):
        cxml.Predictor.from_pretrained("nobody/nothing")


@pytest.mark.parametrize(
    "options",
    [{"rows": "int4"}, {"rows": 4}, {"rows": ["int8"]}, {"logit_adjustment": float("nan")},
     {"logit_adjustment": "much"}, {"propensity_ranking": float("inf")}, {"propensity_ranking": True}],
)  # fmt: skip
def test_impossible_options_are_refused(exported, options):
    with pytest.raises(ConfigError, match=rf"^{next(iter(options))} = "):
        cxml.Predictor.from_pretrained(exported, **options)


@pytest.mark.parametrize(
    "options", [["--k", "0"], ["--k", "-3"], ["--batch-size", "0"], ["--part-rows", "-1"], ["--processes", "0"],
                ["--ray-workers", "-1"], ["--beam", "0"], ["--beam", "1", "2"]],
)  # fmt: skip
def test_the_command_refuses_impossible_numbers(exported, tmp_path, capsys, options):
    (tmp_path / "texts.txt").write_text("a text\n")
    command = [exported, str(tmp_path / "texts.txt"), "--output", str(tmp_path / "out"), *options]
    assert predict.main(command) == 2
    assert options[0].removeprefix("--") in capsys.readouterr().err


def test_numbers_beyond_64_bits_are_as_good_as_large_ones(exported, tmp_path, capsysbinary):
    (tmp_path / "texts.txt").write_text("a text\n")
    command = [exported, str(tmp_path / "texts.txt"), "--k"]
    assert predict.main([*command, "20", "--beam", "4"]) == 0
    expected = capsysbinary.readouterr().out
    assert predict.main([*command, "9" * 30, "--beam", "9" * 30, "--part-rows", "9" * 30]) == 0
    assert capsysbinary.readouterr().out == expected


def test_strengths_that_leave_the_range_of_float32_are_refused(predictor):
    trained = replace(predictor.parts, frequency=np.arange(1, len(NAMES) + 1), num_train_texts=1000)
    for power in (-1e6, -0.5, 1e6, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match=r"^propensity_ranking = "):
            weigh_labels(trained, power)
    for strength in (1e39, -1e38):
        with pytest.raises(ConfigError, match=r"^logit_adjustment = "):
            adjust_logits(trained, strength)
    assert adjust_logits(trained, -0.5).rows.bias[0] < adjust_logits(trained, 0.5).rows.bias[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--logit-adjustments", "nan"], "--logit-adjustments"),
        (["--propensity-rankings", "-1"], "--propensity-rankings"),
        (["--models", "other=nowhere"], "contains no trained model"),
        (["--predictions", "other=nowhere.npz"], "nowhere.npz: is missing"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_the_evaluation(tmp_path, capsys, options, words):
    (tmp_path / "config.yaml").write_text(f"output: {tmp_path / 'run'}\ndata: {{source: {{path: raw}}}}\n")
    assert evaluate.main(["--config", str(tmp_path / "config.yaml"), *options]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "content", "words"),
    [
        ("--allowed", "label 1\n\nlabel x\n", "line 3: 'label x' is not a label of this model"),
        ("--allowed", "\n", "names no label"),
        ("--excluded", "0 1\n\n0 20\n", "line 3: 20 is not a label id"),
        ("--excluded", "0 1\n0\n", "line 2: is not a row and a label"),
    ],
)
def test_a_wrong_filter_is_refused_with_its_file_and_line(exported, tmp_path, capsys, option, content, words):
    (tmp_path / "filter.txt").write_text(content)
    (tmp_path / "texts.txt").write_text("a text\n")
    assert predict.main([exported, str(tmp_path / "texts.txt"), option, str(tmp_path / "filter.txt")]) == 2
    error = capsys.readouterr().err
    assert "filter.txt" in error
    assert words in error


def test_blank_lines_of_filters_are_left_out(exported, tmp_path, capsysbinary):
    (tmp_path / "texts.txt").write_text("a text\n")
    (tmp_path / "allowed.txt").write_text("label 1\n\nlabel 2\n\n")
    (tmp_path / "excluded.txt").write_text("0 1\n\n")
    options = ["--allowed", str(tmp_path / "allowed.txt"), "--excluded", str(tmp_path / "excluded.txt")]
    assert predict.main([exported, str(tmp_path / "texts.txt"), *options]) == 0
    assert [each["label"] for each in json.loads(capsysbinary.readouterr().out)["labels"]] == [2]


def test_a_missing_column_is_refused_with_the_options_that_name_columns(exported, tmp_path, capsys):
    (tmp_path / "texts.csv").write_text("essay,remark\na text,another\n")
    assert predict.main([exported, str(tmp_path / "texts.csv")]) == 2
    error = capsys.readouterr().err
    assert "has no column 'text', only essay, remark" in error
    assert "--text-column" in error


def run_in_shell(script, *arguments):
    command = ["bash", "-c", f"set -o pipefail; {script}", "bash", sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_predictions_that_nobody_reads_end_the_command_without_a_word(exported, tmp_path):
    (tmp_path / "texts.txt").write_text("a text\n" * 200)
    script = '"$1" -m cxml.predict "$2" "$3" --part-rows 20 | head -c 1'
    result = run_in_shell(script, exported, str(tmp_path / "texts.txt"))
    assert (result.returncode, result.stdout) == (141, "{")
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr


@pytest.mark.parametrize(
    ("redirection", "words"),
    [("> /dev/full", "standard output: [Errno 28]"), (">&-", "standard output is closed")],
)
def test_a_standard_output_that_cannot_be_written_is_named(redirection, words):
    result = run_in_shell(f'"$1" -c "from cxml import console; console.write_out(b\'x\')" {redirection}')
    assert f"StorageError: {words}" in result.stderr
    assert "Exception ignored" not in result.stderr


@pytest.mark.parametrize("layer", ["workqueue", "default"])
def test_threads_share_a_predictor_whatever_threads_numba_finds(exported, layer):
    program = f"""
import threading
import cxml
predictor = cxml.Predictor.from_pretrained({exported!r}, batch_size=4)
texts = [f"text {{i}}" for i in range(16)]
found = []
def predict():
    for _ in range(5):
        found.append(predictor.predict(texts, 3).labels.tolist())
threads = [threading.Thread(target=predict) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(found) == 20
assert all(each == predictor.predict(texts, 3).labels.tolist() for each in found)
"""
    environment = {**os.environ, "NUMBA_THREADING_LAYER": layer, "OMP_NUM_THREADS": "2"}
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 0, result.stderr[-2000:]


def test_errors_of_inputs_are_errors_of_cxml(predictor):
    with pytest.raises(CxmlError):
        predictor.predict([None])
