import logging

import pytest

from cxml.console import track


def test_items_pass_through_and_a_log_says_how_many(caplog):
    with caplog.at_level(logging.INFO, "cxml.console"):
        assert list(track(iter("abc"), 3, "Reading")) == ["a", "b", "c"]
    assert [record.getMessage()[:15] for record in caplog.records] == ["Reading: 3 done"]


def test_a_long_work_logs_lines_on_its_way(caplog):
    with caplog.at_level(logging.INFO, "cxml.console"):
        list(track(range(4), 4, "Reading", every_seconds=0))
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 5
    assert lines[1].startswith("Reading: 2 of 4, ")


def test_an_error_in_the_work_passes_through():
    with pytest.raises(ZeroDivisionError):
        list(track((1 / i for i in [1, 0]), 2, "Reading"))
