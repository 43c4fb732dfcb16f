"""Batches of concurrent requests: who waits for whom, who is refused, and whose failure is whose.

Oracle: the texts of each batch that the model sees, and `Predictor.predict` on single texts.
"""

import json
import threading
from concurrent.futures import CancelledError, wait

import pytest

from cxml.serving.batching import Batcher, PredictRequest, QueueFullError, room_for

SECONDS = 60


class Watched:
    """A predictor that notes the texts of each batch, and begins a batch when it is let."""

    def __init__(self, predictor):
        self._predictor = predictor
        self.batches, self.began, self.may_go = [], threading.Semaphore(0), threading.Semaphore(0)

    def predict(self, texts, k, *, threshold=None):
        self.batches.append(list(texts))
        self.began.release()
        assert self.may_go.acquire(timeout=SECONDS)
        if "poison" in texts:
            raise ValueError("poison is not to be repeated")
        return self._predictor.predict(texts, k, threshold=threshold)


@pytest.fixture
def watched(predictor):
    return Watched(predictor)


@pytest.fixture
def batcher(watched):
    batcher = Batcher(lambda: watched, batch_texts=4, batch_wait_s=0.0, max_waiting=5)
    yield batcher
    watched.may_go.release(100)
    batcher.close()


def ask(batcher, *texts, k=3):
    return batcher.submit(PredictRequest(list(texts), k, False))


def hold_up(batcher, watched):
    """Let the model work on a request until told to go on."""
    held = ask(batcher, "fever")
    assert watched.began.acquire(timeout=SECONDS)
    return held


def test_a_request_that_finds_the_model_idle_goes_at_once_however_long_others_may_be_waited_for(predictor):
    batcher = Batcher(lambda: predictor, batch_texts=4, batch_wait_s=10 * SECONDS, max_waiting=5)
    assert ask(batcher, "fever").result(SECONDS)
    batcher.close()


def test_requests_that_came_while_the_model_worked_go_together_as_far_as_they_fit(batcher, watched):
    hold_up(batcher, watched)
    waiting = [ask(batcher, "a", "b"), ask(batcher, "c"), ask(batcher, "d", "e"), ask(batcher, *"fghijk")]
    watched.may_go.release(100)
    wait(waiting, SECONDS)
    assert watched.batches == [["fever"], ["a", "b", "c"], ["d", "e"], list("fghijk")]


def test_a_batch_that_is_full_waits_no_longer(predictor, watched):
    batcher = Batcher(lambda: watched, batch_texts=2, batch_wait_s=10 * SECONDS, max_waiting=5)
    hold_up(batcher, watched)
    waiting = [ask(batcher, "a"), ask(batcher, "b")]
    watched.may_go.release(100)
    assert [one.result(SECONDS) for one in waiting]
    assert watched.batches[1:] == [["a", "b"]]
    batcher.close()


@pytest.mark.parametrize(("num_texts", "seconds", "most", "expected"), [
    (64, 0.25, 256, 128), (64, 0.01, 256, 256), (64, 30.0, 256, 64), (1, 0.01, 256, 64), (4, 30.0, 4, 4),
    (100, 0.0, 256, 256),
])  # fmt: skip
def test_a_fast_model_gets_more_texts_at_once_but_no_more_than_it_answers_in_half_a_second(
    num_texts, seconds, most, expected
):
    assert room_for(num_texts, seconds, most) == expected


def test_the_thread_that_runs_a_model_has_loaded_it(predictor):
    threads = []

    def load():
        threads.append(threading.current_thread())
        return predictor

    batcher = Batcher(load, batch_texts=4, batch_wait_s=0.0, max_waiting=5)
    assert batcher.predictor is predictor
    assert [thread.name for thread in threads] == ["model"]
    batcher.close()


def test_a_model_that_cannot_be_loaded_is_an_error_of_who_asked_for_it():
    with pytest.raises(ZeroDivisionError):
        Batcher(lambda: 1 / 0, batch_texts=4, batch_wait_s=0.0, max_waiting=5)  # type: ignore[arg-type]


def test_a_request_waits_for_others_no_longer_than_it_may(watched):
    batcher = Batcher(lambda: watched, batch_texts=1000, batch_wait_s=0.05, max_waiting=5)
    hold_up(batcher, watched)
    waiting = ask(batcher, "a")
    watched.may_go.release(100)
    assert waiting.result(SECONDS)  # nobody else came
    batcher.close()


def test_a_full_queue_takes_no_more_and_one_that_was_cancelled_makes_room(batcher, watched):
    hold_up(batcher, watched)
    waiting = [ask(batcher, str(number)) for number in range(5)]
    with pytest.raises(QueueFullError):
        ask(batcher, "too many")
    assert waiting[2].cancel()
    waiting.append(ask(batcher, "instead"))
    watched.may_go.release(100)
    wait([one for one in waiting if not one.cancelled()], SECONDS)
    predicted = [text for batch in watched.batches for text in batch]
    assert predicted == ["fever", "0", "1", "3", "4", "instead"]
    with pytest.raises(CancelledError):
        waiting[2].result()


def test_a_request_that_fails_fails_alone_and_its_text_is_not_logged(batcher, watched, predictor, caplog):
    hold_up(batcher, watched)
    good, bad, other = ask(batcher, "a broken wrist"), ask(batcher, "poison"), ask(batcher, "typhoid fever")
    watched.may_go.release(100)
    with pytest.raises(ValueError, match="poison"):
        bad.result(SECONDS)
    for text, answer in (("a broken wrist", good), ("typhoid fever", other)):
        (labels,) = json.loads(answer.result(SECONDS))["predictions"]
        assert [label["name"] for label in labels] == [label.name for label in predictor.predict([text], 3)[0]]
    assert "ValueError" in caplog.text
    assert "poison" not in caplog.text.replace('if "poison" in texts', "").replace('raise ValueError("poison', "")


def test_it_closes_when_all_that_it_accepted_is_answered(watched):
    batcher = Batcher(lambda: watched, batch_texts=1, batch_wait_s=0.0, max_waiting=50)
    waiting = [ask(batcher, str(number)) for number in range(20)]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    watched.may_go.release(100)
    closing.join(SECONDS)
    assert all(one.done() and one.result() for one in waiting)
    with pytest.raises(RuntimeError, match="closed"):
        ask(batcher, "late")


def test_many_threads_at_once_each_get_their_own_answer(predictor):
    texts = [f"fever {number}" for number in range(64)]
    expected = predictor.predict(texts, 2).labels.tolist()
    batcher = Batcher(lambda: predictor, batch_texts=8, batch_wait_s=0.001, max_waiting=100)
    answers = {}

    def client(rows):
        for row in rows:
            answers[row] = json.loads(ask(batcher, texts[row], k=2).result(SECONDS))["predictions"][0]

    clients = [threading.Thread(target=client, args=(range(start, 64, 8),)) for start in range(8)]
    for each in clients:
        each.start()
    for each in clients:
        each.join()
    batcher.close()
    assert [[label["label"] for label in answers[row]] for row in range(64)] == expected
