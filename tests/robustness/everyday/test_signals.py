"""SIGTERM and SIGUSR1 end a command that runs without worker processes: one line of advice, no lock or file left.

Oracle: real commands, their exit codes and the folders that they leave.
"""

import contextlib
import signal
import subprocess
import sys
import textwrap

import pytest
from support.launching import launch_environment, wait_until
from support.ray import one_at_a_time
from support.runs import make_encoder, small_config

from cxml.config import config_to_dict
from cxml.config_files import dump_config
from cxml.storage.locks import locked

SIGNALS = [signal.SIGTERM, signal.SIGUSR1]
WORK = """
    import sys, tempfile, time
    from cxml import cli
    from cxml.storage.locks import locked
    from dataclasses import dataclass

    @dataclass
    class Command:
        "Work."
        place: str
        ray: bool = False

    def work(command):
        from cxml import ray_cluster
        with locked(command.place + "/out"), tempfile.TemporaryDirectory(dir=command.place):
            with ray_cluster.joined_cluster() if command.ray else tempfile.TemporaryDirectory():
                print("at work", flush=True)
                time.sleep(600)

    sys.exit(cli.run_tool(Command, work, "work"))
"""


def started(words, log):
    with log.open("w") as file:
        return subprocess.Popen(
            [sys.executable, *words], stdout=file, stderr=file, env=launch_environment(RAY_AUTH_MODE="disabled"),
            start_new_session=True,
        )  # fmt: skip


def stop(process, log, phrase, number):
    """Send the signal when the log has a phrase; the exit code and the last line."""
    try:
        wait_until(lambda: phrase in log.read_text() or process.poll() is not None, f"no {phrase}")
        process.send_signal(number)
        return process.wait(60), log.read_text().splitlines()[-1]
    finally:
        process.kill()


@pytest.mark.parametrize("number", SIGNALS)
def test_a_preparation_that_a_signal_stops_says_how_to_go_on_and_gives_its_lock_back(tmp_path, number):
    config = small_config(tmp_path / "out", make_encoder(tmp_path / "encoder"))
    file, log = tmp_path / "config.yaml", tmp_path / "log.txt"
    file.write_text(dump_config(config_to_dict(config)))
    code, line = stop(started(["-m", "cxml.train", "--config", file], log), log, "prepare  begins", number)
    assert code == 75
    assert line == f"{number.name} stopped the command. Run the same command again to resume."
    with locked(str(tmp_path / "out")), locked(str(tmp_path / "out" / "data")):
        pass


@pytest.mark.parametrize(("number", "ray"), [(SIGNALS[0], False), (SIGNALS[1], False), (SIGNALS[0], True)])
def test_a_command_that_a_signal_stops_leaves_no_temporary_folder_no_lock_and_no_ray(tmp_path, number, ray):
    log, place = tmp_path / "log.txt", tmp_path / "place"
    place.mkdir()
    words = ["-c", textwrap.dedent(WORK), "--place", str(place), *(["--ray"] if ray else [])]
    with one_at_a_time() if ray else contextlib.nullcontext():
        code, line = stop(started(words, log), log, "at work", number)
    assert (code, line) == (75, f"{number.name} stopped the command. Run the same command again.")
    assert not list(place.iterdir())
