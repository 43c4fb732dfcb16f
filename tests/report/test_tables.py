"""The printed tables of metrics, levels, decisions, groups and examples.

Oracle: the values that each table was given, searched in the text that rich prints.
"""

import io
import re

import pytest
from rich.console import Console

from cxml.report import Example, decisions_table, examples_table, groups_table, levels_table, metrics_table


def printed(table, **options):
    console = Console(file=io.StringIO(), width=80, **options)
    console.print(table)
    text = console.file.getvalue()
    assert all(len(line) <= 80 for line in text.splitlines()) or options
    return text


def row(text, name):
    return next(line for line in text.splitlines() if f" {name} " in line)


RESULTS = {"CascadeXML": {"P@1": 61.239, "P@3": 40.0, "PSP@1": 3.0}, "tf-idf": {"P@1": 58.0, "P@3": 40.0, "PSP@1": 9.0}}


def test_each_metric_is_shown_for_each_system_with_two_decimals():
    text = printed(metrics_table(RESULTS, "Test split"))
    assert "Test split" in text
    assert "61.24" in row(text, "P@1")
    assert "58.00" in row(text, "P@1")
    assert "9.00" in row(text, "PSP@1")


def bold_parts(table):
    text = printed(table, force_terminal=True, color_system="standard")
    return [part.strip() for part in re.findall(r"\x1b\[1m([^\x1b]*)", text)]


def test_the_best_system_is_bold_whichever_it_is_and_both_where_they_tie():
    bold = bold_parts(metrics_table(RESULTS, "Test split"))
    assert [part for part in bold if "." in part] == ["61.24", "40.00", "40.00", "9.00"]


def test_one_system_alone_is_not_called_best():
    assert "61.00" not in bold_parts(metrics_table({"CascadeXML": {"P@1": 61.0}}, "Test split"))


def test_a_metric_that_one_system_lacks_is_a_dash():
    results = {"a": {"P@1": 1.0}, "b": {"P@1": 2.0, "PSP@1": 3.0}}
    assert " - " in row(printed(metrics_table(results, "x")), "PSP@1")


def test_levels_are_named_and_sized_coarse_to_fine():
    levels = [{"P@1": 90.0, "recall@5": 99.5}, {"P@1": 60.0, "recall@5": 70.0}]
    text = printed(levels_table([256, 13728], levels))
    assert re.search(r"256 clusters.*13,728 labels", text)
    assert re.search(r"90\.00.*60\.00", row(text, "P@1"))
    assert re.search(r"99\.50.*70\.00", row(text, "recall@5"))


DECISIONS = {
    "texts": 1200,
    "thresholds": {"0.5": {"shared": 0.5, "own": 0}, "macro-f1": {"shared": 0.1234, "own": 5678}},
    "metrics": {
        name: {"micro-P": 80.0, "micro-F1": value, "macro-F1": 30.0, "labels per text": 2.5}
        for name, value in (("0.5", 61.25), ("macro-f1", 58.5))
    },
}
GROUPS = {
    "k": 5,
    "threshold": "micro-f1",
    "groups": {
        "all": {"num_labels": 13728, "num_true": 98765, "recall@5": 70.5, "R-precision": 65.25, "micro-F1": 60.0,
                "macro-F1": 41.75},
        "zero-shot": {"num_labels": 12, "num_true": 0, "micro-F1": 0.0, "macro-F1": 0.0},
    },
}  # fmt: skip


def test_decisions_are_shown_for_each_threshold_with_what_it_was_chosen_on():
    text = printed(decisions_table(DECISIONS))
    assert "1,200 validation texts" in " ".join(text.split())
    assert re.search(r"0\.500.*0\.123 \+ 5,678 own", row(text, "threshold"))
    assert re.search(r"61\.25.*58\.50", row(text, "micro-F1"))
    assert "no validation texts" in " ".join(printed(decisions_table({**DECISIONS, "texts": 0})).split())


def test_groups_of_labels_are_shown_with_dashes_where_none_is_true():
    text = printed(groups_table(GROUPS))
    assert re.search(r"13,728.*98,765.*70\.50.*65\.25.*60\.00.*41\.75", row(text, "all"))
    assert re.search(r"12.* 0 .*- .*- .*0\.00", row(text, "zero-shot"))


def test_sizes_and_results_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="zip"):
        levels_table([256], [{"P@1": 1.0}, {"P@1": 2.0}])


def test_examples_show_text_truth_and_best_labels_with_true_ones_starred():
    example = Example(text="acute infarction", true=["I21", "I20"], predicted=[("I21", 0.9712), ("J45", 0.2)])
    text = printed(examples_table([example]))
    assert "acute infarction" in text
    assert "I21; I20" in text
    assert "* 0.97 I21" in text
    assert "  0.20 J45" in text
    assert "* 0.20" not in text


def test_brackets_in_texts_and_names_are_not_taken_for_markup():
    example = Example(text="[bold]x[/bold]", true=["[red]"], predicted=[("[/red]", 1.0)])
    text = printed(examples_table([example]))
    assert all(part in text for part in ("[bold]x[/bold]", "[red]", "[/red]"))


def test_long_texts_and_many_labels_stay_within_80_columns():
    example = Example(text="word " * 100, true=[f"label{i}" for i in range(30)], predicted=[("x" * 200, 0.5)])
    text = printed(examples_table([example]))
    assert "and 20 more" in text
    assert text.count("word") == 100
