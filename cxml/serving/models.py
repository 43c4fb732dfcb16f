"""The served model: loading, checking and replacing it."""

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
    from cxml.config import PredictionPrecision
    from cxml.prediction import Predictor, RowFormat
    from cxml.serving.batching import PredictRequest
    from cxml.serving.options import ServeOptions

_TEXTS_OF_A_PASS_ON_CPUS = 32
"""Texts that a CPU predicts in one pass. The texts of a batch are sorted by length: passes of 32 pad them less than one
of 64 does, and cost a CPU nothing else. On a GPU a pass costs launches, so there it is the whole batch."""

CHECK_TEXTS = ["ready"]
"""The text of the readiness check."""


class Model(Protocol):
    """A loaded model that answers until it is closed."""

    @property
    def num_labels(self) -> int:
        """L."""
        ...

    @property
    def threshold_names(self) -> tuple[str, ...]:
        """Names of the model's thresholds."""
        ...

    async def answer(self, request: PredictRequest, /) -> bytes:
        """A `Prediction` as JSON. Raises HTTPException if the model does not respond."""
        ...

    def is_answering(self, seconds: float) -> bool:
        """Whether the model labels a word within `seconds`. A full queue also counts as alive."""
        ...

    def close(self) -> None:
        """Answer the accepted requests, and free memory and processes."""
        ...


class ServingEngine(Protocol):
    """Where models are loaded: this process, or a Ray cluster."""

    def load(self) -> Model:
        """Load and check the current files of the model. Previously loaded models continue to answer.

        Raises:
            CxmlError: the model is missing or incomplete, or cannot be started.
        """
        ...

    def is_lost(self) -> str:
        """The reason why no model can answer any more; empty if there is none."""
        ...


class ServedModel:
    """The model behind the HTTP interface. Each request uses the same model from start to end."""

    def __init__(
        self, name: str, model: Model | None = None, status: Literal["loading", "ready", "not ready"] = "loading"
    ) -> None:
        """Serve a model, or none while it loads.

        Args:
            name: name shown to clients.
            model: the model; None while it loads.
            status: result of the server's last readiness check.
        """
        self.name, self.status = name, status
        self.metrics = Metrics()
        self._model = model
        self._users: Counter[Model] = Counter()
        self._changed = threading.Condition()

    @property
    def num_labels(self) -> int:
        """L; 0 while the model loads."""
        model = self._model
        return model.num_labels if model else 0

    @property
    def threshold_names(self) -> tuple[str, ...]:
        """The model's thresholds; empty while it loads."""
        model = self._model
        return model.threshold_names if model else ()

    @contextmanager
    def in_use(self) -> Iterator[Model | None]:
        """Yield the model, which stays open within this context; None while it loads."""
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
        """Serve another model from now on. The previous one is closed after its requests are answered."""
        with self._changed:
            before, self._model = self._model, model
            self._changed.wait_for(lambda: not (before and self._users[before]))
        if before:
            del self._users[before]
            before.close()


@dataclass(frozen=True)
class ModelSpec:
    """The model to serve, see `Predictor.from_checkpoint`."""

    url: str
    rows: RowFormat | None
    memory_map: bool
    precision: PredictionPrecision | None = None
    calibrated: bool = False


def load_checked(spec: ModelSpec, options: ServeOptions, device: str | None = None) -> Predictor:
    """Load a predictor and check it by labelling a text.

    Raises:
        DataError: the model's scores are not numbers.
        CxmlError: see `Predictor.from_checkpoint`.
    """
    from cxml.prediction import Predictor  # noqa: PLC0415 - seconds, during which the server answers already

    predictor = Predictor.from_checkpoint(
        spec.url,
        rows=spec.rows,
        calibrated=spec.calibrated,
        memory_map=spec.memory_map,
        batch_size=options.batch_texts,
        device=device,
        precision=spec.precision,
    )
    if predictor.device.type == "cpu":
        predictor.batch_size = min(predictor.batch_size, _TEXTS_OF_A_PASS_ON_CPUS)
    if not np.isfinite(predictor.predict(CHECK_TEXTS, 1).scores).all():
        raise DataError(spec.url, "the model's scores are not numbers", "Train or export the model again.")
    # The trained weights are no longer needed, and take half of a small server's memory.
    predictor.parts = replace(predictor.parts, model=predictor.model)
    return predictor
