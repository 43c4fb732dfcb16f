"""Settings that cannot end in a model are refused by name before any work, and splits without texts by their files."""

import json

import pytest
from support.runs import make_encoder
from support.small_runs import small_values, write_rows

from cxml import pipeline
from cxml.config import config_from_dict
from cxml.errors import ConfigError, CxmlError, DataError
from cxml.formats import open_source, read_source
from cxml.pipeline.dry_run import dry_run
from cxml.preparation import prepare


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return make_encoder(tmp_path_factory.mktemp("encoder"))


def never(work, arguments, num_workers):
    raise AssertionError("no process is started")


def files_in(folder):
    return [path.name for path in folder.rglob("*") if path.is_file()] if folder.exists() else []


BEFORE_ANYTHING = {
    "a share beside a split": ({"train": {"validation_fraction": 0.1}}, r"train\.validation_fraction.*split already"),
    "a layer too many": ({"model": {"taps": ["3"]}}, r"model\.taps.*2 layers"),
    "more frozen layers than there are": ({"model": {"freeze_layers": 3}}, r"model\.freeze_layers.*2 layers"),
    "a bottleneck wider than the encoder": ({"model": {"bottleneck": 64}}, r"model\.bottleneck.*32 dimensions"),
    "a window without room": ({"model": {"window": 2}}, r"model\.window.*special tokens"),
    "uneven groups": ({"train": {"num_workers": 4}, "head": {"group_size": 3}}, r"head\.group_size.*the 4 processes"),
    "nothing to start from": ({"model": {"start_from": "{folder}/none"}}, "none"),
}


@pytest.mark.parametrize("case", BEFORE_ANYTHING)
def test_conflicts_are_refused_before_any_text_is_prepared(tmp_path, encoder, case):
    sections, message = BEFORE_ANYTHING[case]
    sections = json.loads(json.dumps(sections).replace("{folder}", str(tmp_path)))
    raw = write_rows(tmp_path / "raw", 4, 20)
    (raw / "dev.jsonl").write_text((raw / "test.jsonl").read_text())
    config = config_from_dict(small_values(tmp_path / "run", encoder, raw, **sections))
    for begin in (lambda config: pipeline.run(config, run_job=never), dry_run):
        with pytest.raises(CxmlError, match=message):
            begin(config)
        assert [name for name in files_in(tmp_path / "run") if name.endswith((".json", ".arrow"))] == []


ON_DATA = {
    "names without the part": ({"train": {"name_texts": "xyz(.+)"}}, r"train\.name_texts.*matches none of the 4"),
    "a share without a text": ({"train": {"validation_fraction": 0.01}}, r"train\.validation_fraction.*to validate"),
    "batches too small": (
        {"train": {"num_workers": 8, "bucket_by_length": True}}, r"train\.batch_size.*20 texts make batches of 1"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", ON_DATA)
def test_conflicts_with_the_data_are_refused_before_a_tree_is_built(tmp_path, encoder, case):
    sections, message = ON_DATA[case]
    raw = write_rows(tmp_path / "raw", 4, 20)
    config = config_from_dict(small_values(tmp_path / "run", encoder, raw, **sections))
    with pytest.raises(ConfigError, match=message):
        pipeline.run(config, run_job=never)
    assert not (tmp_path / "run" / "tree" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("sections", "problem"),
    [
        ({"checkpoint": {"keep_best": 1, "best_metric": "F1@7"}, "train": {"evaluate_every": 1}}, "neither loss nor"),
        ({"checkpoint": {"keep_best": 1, "best_metric": "P@1"}}, "is never measured"),
    ],
)
def test_checkpoints_are_not_kept_by_a_metric_that_nothing_reports(sections, problem):
    with pytest.raises(ConfigError, match=rf"checkpoint\.best_metric.*{problem}"):
        config_from_dict({"output": "run", "data": {"source": {"kind": "icd10cm"}}, **sections})


@pytest.mark.parametrize("kind", ["csv", "jsonl", "table"])
@pytest.mark.parametrize("content", ["nothing", "no rows", "no labels"])
def test_a_validation_file_without_texts_is_refused_with_the_remedy(tmp_path, encoder, kind, content):
    raw = tmp_path / "raw"
    raw.mkdir()
    is_csv = kind != "jsonl"
    header, row = ("text,labels\n", "a text,one\n") if is_csv else ("", '{"text": "a text", "labels": ["one"]}\n')
    end = "csv" if is_csv else "jsonl"
    for split in ("train", "test"):
        (raw / f"{split}.{end}").write_text(header + 10 * row)
    unlabelled = "a text,\n" if is_csv else '{"text": "a text", "labels": []}\n'
    (raw / f"dev.{end}").write_text({"nothing": "", "no rows": header, "no labels": header + 2 * unlabelled}[content])
    values = {"kind": kind, "path": str(raw)}
    config = config_from_dict({
        "output": str(tmp_path / "run"), "model": {"encoder": encoder},
        "data": {"source": values, "on_error": "skip", "engine": "local", "max_length": 8},
    })  # fmt: skip
    remedy = (
        r"remove the file" if is_csv and content == "nothing" else r"raw: no text .* validation\. .*remove the file"
    )
    for read in (prepare, lambda config: read_source(config.data.source, "skip")):
        with pytest.raises(DataError, match=remedy):
            read(config)
    assert "validation" in open_source(config.data.source).splits
