"""Predict concurrent requests together: a bounded queue, and a thread that runs the model."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

if TYPE_CHECKING:
    from cxml.prediction import Predictor

_log = logging.getLogger(__name__)

_SECONDS_TO_END = 60.0
_SECONDS_OF_A_BATCH = 0.5
"""Time limit of a large batch. Texts of similar lengths are computed together, so large batches pad less; but those of
a slow model would delay its clients."""
_TEXTS_OF_ANY_BATCH = 64
"""Texts that may always be predicted together, regardless of their time."""


@dataclass(frozen=True)
class PredictRequest:
    """One request."""

    texts: list[str]
    k: int
    explain: bool
    threshold: float | str | None = None


class QueueFullError(Exception):
    """The queue is full."""


class Batcher:
    """A queue of requests for one model.

    The model's thread takes the requests that arrived during the previous batch, up to `batch_texts` texts. More than
    64 texts are taken only if they are expected to take at most half a second at the speed of the previous batch. A
    request to an idle model is predicted at once. A request that arrived while the model was busy waits for others for
    at most `batch_wait_s`. A cancelled request is not predicted.

    The same thread loads the model, because OpenMP creates helper threads for each computing thread. If the main thread
    loaded the model and this one ran it, there would be more helpers than cores, and idle helpers would sleep instead
    of spinning, which makes the model a third slower.

    Attributes:
        predictor: the model.
    """

    predictor: Predictor

    def __init__(
        self, load: Callable[[], Predictor], *, batch_texts: int, batch_wait_s: float, max_waiting: int
    ) -> None:
        """Start the thread, and wait until it has the model.

        Args:
            load: loads the model.
            batch_texts: most texts of a batch; a larger request is predicted alone.
            batch_wait_s: seconds.
            max_waiting: most waiting requests, without those that are being predicted.

        Raises:
            Exception: any error of `load`.
        """
        self._batch_texts, self._batch_wait_s, self._max_waiting = batch_texts, batch_wait_s, max_waiting
        self._room = min(batch_texts, _TEXTS_OF_ANY_BATCH)
        self._waiting: deque[_Waiting] = deque()
        self._changed = threading.Condition()
        self._is_closed = False
        loaded: Future[Predictor] = Future()
        self._thread = threading.Thread(target=self._work, args=(load, loaded), name="model", daemon=True)
        self._thread.start()
        self.predictor = loaded.result()

    def submit(self, request: PredictRequest) -> Future[bytes]:
        """Queue a request. Returns a future of its answer from `answer_together`; cancel it to drop a waiting request.

        Raises:
            QueueFullError: too many requests are waiting.
            RuntimeError: the batcher is closed.
        """
        with self._changed:
            if self._is_closed:
                raise RuntimeError("the batcher is closed")
            if len(self._waiting) >= self._max_waiting:
                self._waiting = deque(one for one in self._waiting if not one.answer.cancelled())
            if len(self._waiting) >= self._max_waiting:
                raise QueueFullError
            waiting = _Waiting(request)
            self._waiting.append(waiting)
            self._changed.notify()
        return waiting.answer

    def close(self) -> None:
        """Accept no more requests, and wait until all accepted ones are answered, unless the model hangs."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join(_SECONDS_TO_END)

    def _work(self, load: Callable[[], Predictor], loaded: Future[Predictor]) -> None:
        try:
            predictor = load()
        except BaseException as error:
            loaded.set_exception(error)
            return
        loaded.set_result(predictor)
        while batch := self._next_batch():
            began = time.monotonic()
            answers = answer_together(predictor, [one.request for one in batch])
            num_texts = sum(len(one.request.texts) for one in batch)
            self._room = room_for(num_texts, time.monotonic() - began, self._batch_texts)
            for one, answer in zip(batch, answers, strict=True):
                if isinstance(answer, Exception):
                    one.answer.set_exception(answer)
                else:
                    one.answer.set_result(answer)

    def _next_batch(self) -> list[_Waiting]:
        """Requests to predict together; empty if the batcher is closed and no request waits."""
        batch: list[_Waiting] = []
        with self._changed:
            while not batch:
                if self._waiting:
                    left = self._waiting[0].since + self._batch_wait_s - time.monotonic()
                    self._changed.wait_for(self._is_full, timeout=max(0.0, left))
                elif self._is_closed:
                    return []
                else:
                    self._changed.wait()
                batch = self._take()
        return batch

    def _is_full(self) -> bool:
        return self._is_closed or sum(len(one.request.texts) for one in self._waiting) >= self._room

    def _take(self) -> list[_Waiting]:
        """The oldest requests that fit a batch, without cancelled ones."""
        batch: list[_Waiting] = []
        room = self._room
        while self._waiting and (not batch or len(self._waiting[0].request.texts) <= room):
            one = self._waiting.popleft()
            if one.answer.set_running_or_notify_cancel():
                batch.append(one)
                room -= len(one.request.texts)
        return batch


def room_for(num_texts: int, seconds: float, most: int) -> int:
    """Most texts of the next batch, at most `most`, after a batch of `num_texts` that took `seconds`."""
    in_time = int(_SECONDS_OF_A_BATCH * num_texts / max(seconds, 1e-9))
    return min(most, max(_TEXTS_OF_ANY_BATCH, in_time))


@dataclass(frozen=True, eq=False)
class _Waiting:
    request: PredictRequest
    answer: Future[bytes] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)


def answer_together(predictor: Predictor, requests: Sequence[PredictRequest]) -> list[bytes | Exception]:
    """The answer to each request, as JSON. If predicting them together fails, each is predicted alone.

    Returns:
        For each request the text of a `Prediction`, or its own error.
    """
    try:
        return [to_json({"predictions": labels}) for labels in _predict_together(predictor, requests)]
    except Exception as error:
        if len(requests) > 1:
            return [answer for one in requests for answer in answer_together(predictor, [one])]
        # Omits the error's message, which may repeat the text.
        frames = "".join(traceback.format_tb(error.__traceback__))
        _log.error("The model failed on a request: %s\n%s", type(error).__name__, frames)
        return [error]


def _predict_together(
    predictor: Predictor, requests: Sequence[PredictRequest]
) -> list[Sequence[Sequence[dict[str, Any]]]]:
    """The labels of each request's texts, in one pass per combination of `explain` and threshold."""
    from cxml.prediction import as_values  # noqa: PLC0415 - heavy, and loaded with the predictor

    answers: list[Sequence[Sequence[dict[str, Any]]]] = [[] for _ in requests]
    for explain, threshold in dict.fromkeys((one.explain, one.threshold) for one in requests):
        places = [place for place, one in enumerate(requests) if (one.explain, one.threshold) == (explain, threshold)]
        texts = [text for place in places for text in requests[place].texts]
        if not texts:
            continue
        k = max(requests[place].k for place in places)
        predict = predictor.explain if explain else predictor.predict
        found = predict(texts, k, threshold=threshold)
        at = 0
        for place in places:
            one = requests[place]
            answers[place] = [[as_values(label) for label in found[at + row][: one.k]] for row in range(len(one.texts))]
            at += len(one.texts)
    return answers
