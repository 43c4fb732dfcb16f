"""Config files that are ambiguous or blow up are refused with field or line; all others mean what they look like.

Oracles: for each text, the message or the values that it must give; PyYAML's writer for round trips.
"""

import re

import pytest
import yaml
from support.bounded import outcomes

from cxml.yaml_files import read_yaml

BASE = "output: runs/x\ndata:\n  source: {kind: icd10cm}\n"
FIELD = r"refused: (train|optim|model|tree|head|evaluate|data|output|seed)[.\w]* = "
REFUSED = {
    # Numbers that are none.
    **{f"train: {{epochs: {value}}}": FIELD for value in (
        "yes", "on", "true", "no", "1:30", ".inf", "-.inf", ".nan", "010", "0o10", "0x10", "0b1", "1_0", "3.0", "1e3",
        "'3'",
        "~", "", "2026-01-01", "[1]", "{a: 1}", "9" * 5000, "1.", "0xFFFFFFFF", "1:30:30", "²")},
    **{f"train: {{hang_minutes: {value}}}": FIELD for value in (
        "yes", "off", "true", ".inf", ".nan", "inf", "nan", "'nan'", "infinity", "1:30", "1_000", "190:20:30.15",
        "0x1.8p3",
        "2026-01-01", "1e999", "'1e999'", "-1e999", "", "'1_0'", "' 1'", "٣")},
    **{f"tree: {{level_sizes: [{value}]}}": FIELD for value in ("yes", "1:30", "010", ".inf", "4.0", "4, 1_6")},
    **{f"model: {{dropouts: [{value}, 0.2]}}": FIELD for value in ("no", ".nan", ".inf", "1:30", "1e999", "0.1_0")},
    "train: {zero_stage: yes}": FIELD, "train: {zero_stage: 1.0}": FIELD, "head: {group_size: yes}": FIELD,
    "evaluate: {baseline: 1}": FIELD, "evaluate: {baseline: 'yes'}": FIELD, "evaluate: {top_k: [yes]}": FIELD,
    # Texts that are none.
    "model: {encoder: yes}": FIELD, "model: {encoder: 5}": FIELD, "model: {encoder: null}": FIELD,
    "model: {taps: [²]}": FIELD, "model: {taps: [1]}": FIELD, "train: {name_texts: on}": FIELD,
    # Keys.
    "train: {epochs: 1}\ntrain: {epochs: 2}": "refused: .*line 5: .*'train' occurs twice",
    "train: {epochs: 1, epochs: 2}": "refused: .*line 4: .*'epochs' occurs twice",
    "train:\n  epochs: 1\n  'epochs': 1": "refused: .*line 6: .*'epochs' occurs twice",
    'train: {"epochs": 1, "\\x65pochs": 2}': "refused: .*line 4: .*'epochs' occurs twice",
    "output: runs/y": "refused: .*line 4: .*'output' occurs twice",
    "data: {source: {kind: csv, path: x, label_separator: 010}}": "refused: .*'data' occurs twice",
    "a: {b: {c: {d: 1, d: 2}}}": "refused: .*line 4: .*'d' occurs twice",
    "a: [{b: 1, b: 2}]": "refused: .*line 4: .*'b' occurs twice",
    **{f"{key}: 1": "refused: .*line 4: .*the key .* is not a string" for key in ("1", "yes", "null", "~", "0.5")},
    "? [a]\n: 1": "refused: .*line 4: .*the key .* is not a string",
    "? {a: 1}\n: 1": "refused: .*line 4: .*the key .* is not a string",
    "2026-01-01: 1": "refused: .*is not a known field",
    "trian: {epochs: 1}": "refused: .*Did you mean train", "train: 5": "refused: .*is not a mapping",
    "train:": "refused: .*is not a mapping",
    # Parts used twice, types of its own.
    "tree: {level_sizes: &a [8]}\nmodel: {shortlist_sizes: *a}": "refused: .*line 5: .*an alias",
    "train: &a {epochs: 1}\nlog: {<<: *a}": "refused: .*line 5: .*an alias",
    "a: &a [*a]": "refused: .*line 4: .*an alias", "<<: {seed: 3}": "refused: <<",
    "a: &a [x,x]\n" + "".join(f"b{i}: &b{i} [*a,*a]\n" for i in range(30)): "refused: .*line 5: .*an alias",
    **{f"seed: {value}": r"refused: .*line [45]: is not valid YAML" for value in (
        "!!int 1:30", "!!int 0x10", "!!float .inf", "!!timestamp 2026-99-99", "!!python/object/apply:os.system [id]",
        "!mine 1",
        "!!binary aaaa", "!!set {a}", "!!int [1]", "\t1\n\t- 2", "[1", "{a", "'x", "!!int 1_0")},
    "train: {hang_minutes: 1.0e+999}": "refused: .*line 4: .*is not a decimal number",
    "train: {hang_minutes: 1,5}": "refused: .*line 4: .*the key 5 is not a string",
    "seed: !!bool maybe": "refused: .*is not valid YAML",
    "%YAML 1.1\n---\na: 1": "refused: ", "---\na: 1": "refused: .*line \\d: is not valid YAML",
    # Sizes.
    "a: " + "[" * 100_000: "refused: .*nested too deeply", "a: " + "{a: " * 20_000: "refused: .*nested too deeply",
    "- " * 40_000: "refused: ", "a: " + "x" * (1 << 20): "refused: .*larger than 128 KiB",
    "a: \0": "refused: .*is not valid YAML",
    "".join(f"k{i}: 1\n" for i in range(5_000)): "refused: .*k0 = 1: is not a known field",
}  # fmt: skip
READ = {
    "optim: {encoder_lr: 5e-4}": r'ok: \["runs/x", 0, 10, 0.0005\]',
    "optim: {encoder_lr: 1}\nseed: +3": r'ok: \["runs/x", 3, 10, 1.0\]',
    "optim: {encoder_lr: .5}\nevaluate: {baseline: yes}": r'ok: \["runs/x", 0, 10, 0.5\]',
    "optim: {encoder_lr: '5e-4'}\nmodel: {encoder: 'yes'}": r'ok: \["runs/x", 0, 10, 0.0005\]',
    "train: {epochs: 3}  # a note\nmodel: {encoder: 2026-01-01}": r'ok: \["runs/x", 0, 3, 0.0001\]',
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("configs")
    cases = {}
    for number, text in enumerate([*REFUSED, *READ]):
        file = folder / f"{number}.yaml"
        file.write_text(f"{BASE}{text}\n", encoding="utf-8")
        cases[str(number)] = ("config", {"file": str(file)})
    return list(outcomes(cases).values())


@pytest.mark.parametrize("number", range(len(REFUSED) + len(READ)))
def test_a_config_means_what_it_looks_like(found, number):
    text, expected = [*REFUSED.items(), *READ.items()][number]
    assert re.match(expected, found[number], re.DOTALL), (text[:80], found[number])


@pytest.mark.parametrize(
    "content", ["output: x".encode("utf-16"), b"\xef\xbb\xbfoutput: x", b"output: x\r\n", b"output: x\r"]
)
def test_marks_and_ends_of_lines_do_not_matter(tmp_path, content):
    file = tmp_path / "config.yaml"
    file.write_bytes(content)
    assert read_yaml(str(file)) == {"output": "x"}


@pytest.mark.parametrize("value", [
    "1e5", "1.5e5", "010", "1_0", "1:30", "2026-01-01", "yes", "null", "~", ".inf", "0x1", "1.", "+.5", "=", "<<",
    "5e+3", "-",
    "&a", "*a", "!x", "é\u2028x", "😀", "", " x ", "a\nb", "#a", 1, -5, 0, 1.5, 1e-5, 1e22, True, None, [1, [2]], [],
])  # fmt: skip
def test_what_was_dumped_reads_as_it_was(tmp_path, value):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"a": value}))
    assert read_yaml(str(file)) == {"a": value}
