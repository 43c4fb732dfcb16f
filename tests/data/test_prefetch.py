"""The prefetch thread keeps the order, is bounded, passes errors on and ends with its consumer.

Oracles: the list of the items, and the list of running threads.
"""

import gc
import threading

import pytest

from cxml.data import prefetch


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name == "cxml-prefetch"]


def test_items_come_in_order_and_the_thread_ends():
    assert list(prefetch(range(100), depth=3)) == list(range(100))
    assert not prefetch_threads()


def test_at_most_depth_items_wait_while_the_consumer_is_busy():
    made = []
    gate = threading.Event()

    def items():
        for i in range(50):
            made.append(i)
            if i == 4:
                gate.set()
            yield i

    stream = prefetch(items(), depth=3)
    assert next(stream) == 0
    assert gate.wait(10)  # one taken, three in the queue, one in the thread's hand
    assert not threading.Event().wait(0.2)
    assert made == [0, 1, 2, 3, 4]
    stream.close()


def test_an_error_in_the_thread_is_raised_in_the_consumer_after_the_items_before_it():
    def items():
        yield 1
        raise OSError("disk on fire")

    stream = prefetch(items())
    assert next(stream) == 1
    with pytest.raises(OSError, match="disk on fire"):
        next(stream)
    assert not prefetch_threads()


@pytest.mark.parametrize("closes", [True, False])
def test_closing_or_dropping_the_stream_stops_the_thread(closes):
    stream = prefetch(iter(int, 1), depth=2)
    next(stream)
    assert prefetch_threads()
    if closes:
        stream.close()
    del stream
    gc.collect()
    assert not prefetch_threads()


def test_an_exception_in_the_consumer_stops_the_thread():
    def consume():
        for _ in prefetch(iter(int, 1)):
            raise ValueError("consumer")

    with pytest.raises(ValueError, match="consumer"):
        consume()
    gc.collect()
    assert not prefetch_threads()
