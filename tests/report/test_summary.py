"""The printed summary of a report shows what the report contains, and nothing else.

Oracle: the values of a hand-written report.
"""

import pytest

from cxml.report import print_report


def report(levels):
    return {
        "level_sizes": [8, 90][-levels:],
        "levels": [{"P@1": 70.25}, {"P@1": 61.5}][-levels:],
        "examples": [{"text": "chest pain", "true": ["R07"], "predicted": [{"label": "R07", "score": 0.9}]}],
    }


def test_it_shows_examples_levels_and_both_systems(capsys):
    print_report({**report(2), "baseline": {"P@1": 65.75}})
    shown = capsys.readouterr().out
    for part in ("chest pain", "* 0.90 R07", "8 clusters", "70.25", "CascadeXML", "61.50", "Parabel", "65.75"):
        assert part in shown


@pytest.mark.parametrize(("levels", "absent"), [(1, "Each level"), (2, "Parabel")])
def test_it_shows_only_what_there_is(capsys, levels, absent):
    print_report(report(levels))
    shown = capsys.readouterr().out
    assert "61.50" in shown
    assert absent not in shown
