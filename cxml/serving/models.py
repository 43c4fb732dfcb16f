"""The model that a server serves now, how it is loaded and checked, and how another one takes its place."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from cxml.errors import DataError
from cxml.serving.metrics import Metrics

if TYPE_CHECKING:
    from cxml.config import PrecisionChoice
    from cxml.prediction import Predictor, RowFormat
    from cxml.serving.batching import Asked
    from cxml.serving.options import ServeOptions

_TEXTS_OF_A_PASS_ON_CPUS = 32
"""Texts that a CPU predicts in one pass. The texts of a batch are sorted by length: passes of 32 pad them less than one
of 64 does, and cost a CPU nothing else. On a GPU a pass costs launches, so there it is the whole batch."""

CHECK_TEXTS = ["ready"]
"""What a model is asked to see whether it answers."""


class Model(Protocol):
    """A model that answers until it is closed."""

    @property
    def num_labels(self) -> int:
        """L."""
        ...

    @property
    def threshold_names(self) -> tuple[str, ...]:
        """Thresholds that were chosen for the model, by name."""
        ...

    async def answer(self, asked: Asked, /) -> bytes:
        """A `Prediction` as JSON. Raises HTTPException where the model does not answer."""
        ...

    def is_answering(self, seconds: float) -> bool:
        """Whether it labels a word within so many seconds; a full queue is a sign of life too."""
        ...

    def close(self) -> None:
        """Answer what was accepted, and give back memory and processes."""
        ...


class Engine(Protocol):
    """Where models are loaded: this process, or a Ray cluster."""

    def load(self) -> Model:
        """The model as its files are now, checked; models that were loaded before go on answering.

        Raises:
            CxmlError: the model is missing or incomplete, or cannot be started.
        """
        ...

    def is_lost(self) -> str:
        """Why no model can answer any more; empty while nothing is wrong."""
        ...


class ServedModel:
    """The model behind the HTTP interface. Each request uses one model from its beginning to its end."""

    def __init__(
        self, name: str, model: Model | None = None, status: Literal["loading", "ready", "not ready"] = "loading"
    ) -> None:
        """Serve a model, or none as long as it loads.

        Args:
            name: what clients see.
            model: the model; None while it loads.
            status: as of the last time that the server itself asked the model.
        """
        self.name, self.status = name, status
        self.metrics = Metrics()
        self._model = model
        self._users: Counter[Model] = Counter()
        self._changed = threading.Condition()

    @property
    def num_labels(self) -> int:
        """L of the model; 0 while it loads."""
        model = self._model
        return model.num_labels if model else 0

    @property
    def threshold_names(self) -> tuple[str, ...]:
        """Those of the model; none while it loads."""
        model = self._model
        return model.threshold_names if model else ()

    @contextmanager
    def in_use(self) -> Iterator[Model | None]:
        """The model, which is not closed within this context; None while it loads."""
        with self._changed:
            model = self._model
            if model:
                self._users[model] += 1
        try:
            yield model
        finally:
            if model:
                with self._changed:
                    self._users[model] -= 1
                    self._changed.notify_all()

    def replace(self, model: Model | None) -> None:
        """Serve another model from now on, and close the one before when the requests that use it are answered."""
        with self._changed:
            before, self._model = self._model, model
            self._changed.wait_for(lambda: not (before and self._users[before]))
        if before:
            del self._users[before]
            before.close()


@dataclass(frozen=True)
class ModelPlace:
    """What to serve: see `Predictor.from_checkpoint`."""

    url: str
    rows: RowFormat | None
    memory_map: bool
    precision: PrecisionChoice | None = None
    calibrated: bool = False


def load_checked(place: ModelPlace, options: ServeOptions, device: str | None = None) -> Predictor:
    """A predictor that has labelled a text.

    Raises:
        DataError: the model's scores are not numbers.
        CxmlError: see `Predictor.from_checkpoint`.
    """
    from cxml.prediction import Predictor  # noqa: PLC0415 - seconds, during which the server answers already

    predictor = Predictor.from_checkpoint(
        place.url,
        rows=place.rows,
        calibrated=place.calibrated,
        memory_map=place.memory_map,
        batch_size=options.batch_texts,
        device=device,
        precision=place.precision,
    )
    if predictor.device.type == "cpu":
        predictor.batch_size = min(predictor.batch_size, _TEXTS_OF_A_PASS_ON_CPUS)
    if not np.isfinite(predictor.predict(CHECK_TEXTS, 1).scores).all():
        raise DataError(place.url, "the model's scores are not numbers", "Train or export the model again.")
    # The weights as they were trained are wanted no more, and half of a small server's memory.
    predictor.parts = replace(predictor.parts, model=predictor.model)
    return predictor
