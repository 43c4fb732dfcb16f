"""The command line of `cxml.train` and its help: fields, defaults, errors, and fast start.

Oracles: the fields of the config classes, and real processes.
"""

import dataclasses
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cxml.commands.train import main
from cxml.config import Config, config_from_dict
from cxml.config_files import dump_config, load_config
from cxml.errors import DataError

QUICKSTART = str(Path(__file__).parent.parent / "configs" / "quickstart.yaml")


def fields(config_class, prefix=""):
    """Every option that a config's fields make."""
    import typing

    for field, hint in typing.get_type_hints(config_class).items():
        if dataclasses.is_dataclass(hint):
            yield from fields(hint, f"{prefix}{field}.")
        else:
            yield f"{prefix}{field}".replace("_", "-")


def test_help_documents_every_field_with_its_default(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    missing = [name for name in fields(Config) if f"--{name}" not in text]
    assert not missing
    assert "default: 0.0001" in text


@pytest.mark.parametrize("command", ["train", "evaluate", "tune", "recluster", "relabel"])
def test_help_shows_a_field_without_a_default_as_required(command, capsys):
    with pytest.raises(SystemExit):
        importlib.import_module(f"cxml.commands.{command}").main(["--help"])
    options = " ".join(line.strip("│ ") for line in capsys.readouterr().out.splitlines()).split(" --")
    required = {option.split()[0] for option in options if "(required)" in option}
    assert required == {"output", "data.source.path"}


def test_help_shows_a_value_of_the_config_file_as_the_default(capsys):
    with pytest.raises(SystemExit):
        main(["--config", QUICKSTART, "--help"])
    text = capsys.readouterr().out
    assert "runs/quickstart)" in text
    assert "(required)" not in text


def test_print_config_prints_what_loads_to_the_same_config(capsys):
    assert main(["--config", QUICKSTART, "--train.epochs", "3", "--print-config"]) == 0
    printed = config_from_dict(yaml.safe_load(capsys.readouterr().out))
    original = load_config(QUICKSTART)
    assert printed == dataclasses.replace(original, train=dataclasses.replace(original.train, epochs=3))


@pytest.mark.parametrize(
    ("table", "output"),
    [
        ("mine.csv", "runs/mine"),
        ("data/my rows.jsonl.gz", "runs/my rows"),
        ("data/folder/", "runs/folder"),
        (".hidden", "runs/hidden"),
        ("https://host/rows.csv?sig=a/b", "runs/rows"),
    ],
)
def test_a_table_in_the_first_place_is_a_config_that_leaves_all_settings_to_the_run(table, output, capsys):
    assert main([table, "--train.epochs", "3", "--print-config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    source = {"kind": "table", "path": table.partition("?")[0]}
    written = {"output": output, "data": {"source": source}, "train": {"epochs": 3}}
    expected = config_from_dict(written)
    assert config_from_dict(printed).auto == expected.auto
    assert printed["output"] == output
    assert printed["data"]["source"]["kind"] == "table"
    assert printed["data"]["source"]["path"].startswith(source["path"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Give a YAML file"),
        (["--config", "nowhere.yaml"], "this config file does not exist"),
        (["mine.csv", "--config", QUICKSTART], "together with the data 'mine.csv'"),
        (["mine.yaml"], "Write --config mine.yaml"),
        (["quickstart"], "Write --config quickstart"),
        (["--config", QUICKSTART, "--train.epochs", "0"], "must be at least 1"),
        (["--config", QUICKSTART, "--train.epoch", "1"], "--train.epochs"),
        (["--config", QUICKSTART, "--train.epochs", "many"], "many"),
        (["--config", QUICKSTART, "--force", "everything"], "everything"),
    ],
)
def test_a_wrong_command_line_ends_with_code_2_and_says_why(arguments, message, capsys):
    try:
        code = main(arguments)
    except SystemExit as exit_:
        code = exit_.code
    assert code == 2
    captured = capsys.readouterr()
    assert message in captured.err + captured.out


def test_broken_yaml_is_refused_with_its_line(tmp_path):
    file = tmp_path / "broken.yaml"
    file.write_text("output: runs/x\ndata: [\n")
    with pytest.raises(DataError, match="line 3"):
        load_config(str(file))


def test_the_command_starts_without_the_heavy_libraries():
    code = (
        "import sys, cxml.train; print([m for m in ('torch', 'ray', 'deepspeed', 'transformers') if m in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert output.stdout.strip() == "[]"


def test_a_config_survives_its_own_yaml(tmp_path):
    file = tmp_path / "config.yaml"
    from cxml.config import config_to_dict

    original = load_config(QUICKSTART)
    file.write_text(dump_config(config_to_dict(original)))
    assert load_config(str(file)) == original


@pytest.mark.parametrize("command", ["predict", "export", "similar"])
def test_help_shows_each_example_on_a_line_of_its_own(command, capsys):
    module = importlib.import_module(f"cxml.commands.{command}")
    with pytest.raises(SystemExit):
        module.main(["--help"])
    shown = [line.strip() for line in capsys.readouterr().out.splitlines()]
    examples = [line for line in module.__doc__.splitlines() if "python -m" in line]
    assert len(examples) > 1
    assert [line for line in shown if line in examples] == examples


def test_help_fills_paragraphs_of_prose(capsys):
    from cxml.commands.data.prepare import main as prepare_main

    with pytest.raises(SystemExit):
        prepare_main(["--help"])
    shown = capsys.readouterr().out.replace("\n", " ")
    assert "is kept; if it was prepared from other inputs, the command refuses it" in shown


def test_a_command_whose_reader_has_ended_ends_without_a_traceback():
    command = [sys.executable, "-m", "cxml.train", "--config", QUICKSTART, "--print-config"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait() == 141


@pytest.mark.parametrize("prefix", ["", "OMPI_COMM_WORLD_"])
def test_many_processes_of_a_launcher_are_refused_in_favour_of_its_script(prefix, monkeypatch, capsys):
    variable = prefix.removesuffix("WORLD_") + "WORLD_SIZE"
    monkeypatch.setenv(variable, "2")
    assert main(["--config", "quickstart", "--print-config"]) == 0  # left over from something else
    monkeypatch.setenv(f"{prefix}RANK", "0")
    assert main(["--config", "quickstart"]) == 2
    assert "A launcher started 2 processes of this command" in capsys.readouterr().err
    monkeypatch.setenv(variable, "1")
    assert main(["--config", "quickstart", "--print-config"]) == 0
