"""A stop signal is not lost if its handler runs in a finalizer, where Python drops exceptions."""

import signal
import threading
import time

import pytest

from cxml.stopping import OutOfTime, Stopped, interrupting_after, stopping_on_signals

SECONDS = 60  # of the work that the signal ends


class Finalized:
    """An object that does something when it is freed."""

    def __init__(self, act):
        self.act = act

    def __del__(self):
        self.act()


def free_and_work(act):
    """Free an object whose finalizer acts, and work on."""
    Finalized(act)
    threading.Event().wait(SECONDS)


@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGTERM, Stopped), (signal.SIGUSR1, Stopped), (signal.SIGINT, KeyboardInterrupt)],
)
def test_a_signal_in_a_finalizer_ends_the_work(number, error):
    with pytest.raises(error), stopping_on_signals():
        free_and_work(lambda: signal.raise_signal(number))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_time_that_is_over_in_a_finalizer_ends_the_work():
    with pytest.raises(OutOfTime), interrupting_after(0.01):
        free_and_work(lambda: time.sleep(0.2))


def test_other_errors_of_finalizers_are_reported_as_before(monkeypatch):
    found = []
    monkeypatch.setattr("sys.unraisablehook", lambda lost: found.append(lost.exc_type))
    with stopping_on_signals():
        Finalized(lambda: 1 / 0)
    assert found == [ZeroDivisionError]
