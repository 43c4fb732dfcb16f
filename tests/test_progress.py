"""Progress on a terminal, in a pipe, in a notebook, and forwarded from another process.

Oracles: a real pseudo-terminal, a real pipe, and a real notebook kernel.
"""

import io
import logging
import os
import pty
import re
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient

from cxml.console import counted
from cxml.progress import MARK, Relay, meter, track

WORK = """
import logging, time
from cxml.console import set_up_logging
from cxml.progress import meter, track
set_up_logging(is_main=True)
with meter("Training", 3) as advance:
    for epoch in range(3):
        advance(1)
        logging.getLogger("cxml.work").info("epoch %d is done", epoch)
        for _ in track(range(2), 2, "Evaluating"):
            time.sleep(0.2)
"""


def run_work(**options):
    environment = {name: value for name, value in os.environ.items() if name != "CXML_PROGRESS"}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm", "COLUMNS": "100"}
    return subprocess.run([sys.executable, "-c", WORK], check=True, timeout=300, env=environment, **options)


@pytest.mark.parametrize(("number", "shown"), [(0, "0 train texts"), (1, "1 train text"), (2000, "2,000 train texts")])
def test_a_count_has_its_grammatical_number(number, shown):
    assert counted(number, "train text") == shown


def test_items_pass_through_and_a_log_says_how_many(caplog):
    with caplog.at_level(logging.INFO, "cxml.progress"):
        assert list(track(iter("abc"), 3, "Reading")) == ["a", "b", "c"]
    assert [record.getMessage()[:15] for record in caplog.records] == ["Reading: 3 done"]


@pytest.mark.parametrize(("total", "shown"), [(4, "Reading: 2 of 4, "), (None, "Reading: 2, ")])
def test_a_long_work_logs_lines_on_its_way(caplog, total, shown):
    with caplog.at_level(logging.INFO, "cxml.progress"):
        list(track(range(4), total, "Reading", every_seconds=0))
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 5
    assert lines[1].startswith(shown)


def test_an_error_in_the_work_passes_through():
    with pytest.raises(ZeroDivisionError):
        list(track((1 / i for i in [1, 0]), 2, "Reading"))


def test_a_terminal_has_bars_below_a_log_that_stays_whole_and_an_output_that_stays_clean():
    terminal, end = pty.openpty()
    done = run_work(stdin=end, stderr=end, stdout=subprocess.PIPE)
    os.close(end)
    said = b""
    try:
        while part := os.read(terminal, 65536):
            said += part
    except OSError:  # how Linux says that nobody writes any more
        pass
    os.close(terminal)
    assert done.stdout == b""
    assert b"\x1b[?25l" in said  # the cursor is hidden while a bar is shown,
    assert said.rindex(b"\x1b[?25h") > said.rindex(b"\x1b[?25l")  # and shown again
    shown = re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", said).decode()
    lines = [line.strip() for line in re.split(r"[\r\n]+", shown)]
    assert [line[9:] for line in lines if "is done" in line] == [f"epoch {epoch} is done" for epoch in range(3)]
    assert any(line.startswith("Training") and "100%" in line for line in lines)
    assert any(line.startswith("Evaluating") and "50%" in line for line in lines)


def test_a_pipe_gets_plain_lines():
    said = run_work(capture_output=True, text=True).stderr
    assert not set("\x1b\r\b") & set(said)
    assert MARK not in said
    assert [line[9:].partition(" in ")[0] for line in said.splitlines()] == [
        part for epoch in range(3) for part in (f"epoch {epoch} is done", "Evaluating: 2 done")
    ] + ["Training: 3 done"]


def test_progress_that_is_passed_on_is_lines_that_a_relay_takes(monkeypatch, capsys):
    monkeypatch.setenv("CXML_PROGRESS", "1")
    with meter("Reading <all>", 2) as advance:
        advance(2)
    passed_on = capsys.readouterr().err
    relay = Relay()
    assert [relay.take(line) for line in io.StringIO(passed_on)] == [True, True]
    relay.close()
    passed_further = re.sub(r'"bar": "[^"]+"', "", capsys.readouterr().err)
    assert passed_further == re.sub(r'"bar": "[^"]+"', "", passed_on)
    assert relay.take(f'{MARK}{{"bar": "torn')
    assert not relay.take("an ordinary line\n")


def execute(*cells):
    """The outputs of each cell of a notebook, run by a real kernel."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=500, kernel_name="python3").execute()
    return [cell.outputs for cell in notebook.cells]


def html_of(outputs):
    return [output.data["text/html"] for output in outputs if output.output_type == "display_data"]


def test_a_notebook_has_bars_of_its_own_work_and_of_a_process_that_works_for_it(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    own, others = execute(
        "from cxml.progress import Relay, relayed_environment, track\nlist(track(range(3), 3, 'Reading <all>'));",
        "import os, subprocess, sys\nrelay = Relay()\n"
        f"process = subprocess.Popen([sys.executable, '-c', {WORK!r}], stderr=subprocess.PIPE, text=True,\n"
        "                           env={**os.environ, **relayed_environment()})\n"
        "for line in process.stderr:\n    if not relay.take(line):\n        print(line, end='', file=sys.stderr)\n"
        "relay.close()\nprocess.wait();",
    )
    assert html_of(own) == ['<progress value="3" max="3"></progress> Reading &lt;all&gt;: 3 of 3']
    bars = html_of(others)
    assert bars[0] == '<progress value="3" max="3"></progress> Training: 3 of 3'
    assert bars[1:] == 3 * ['<progress value="2" max="2"></progress> Evaluating: 2 of 2']
    said = "".join(output.text for output in others if output.output_type == "stream")
    assert [line[9:] for line in said.splitlines()] == [f"epoch {epoch} is done" for epoch in range(3)]
