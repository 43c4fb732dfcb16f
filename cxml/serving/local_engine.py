"""The model in the server's own process, without Ray."""

from __future__ import annotations

import asyncio
import logging
from concurrent import futures
from typing import TYPE_CHECKING

from cxml.errors import ConfigError
from cxml.ray_cluster import Device
from cxml.serving.api import failed, queue_full
from cxml.serving.batching import Batcher, PredictRequest, QueueFullError
from cxml.serving.models import CHECK_TEXTS, ModelSpec, load_checked
from cxml.serving.options import ServeOptions

if TYPE_CHECKING:
    from cxml.prediction import Predictor

_log = logging.getLogger(__name__)


class LocalEngine:
    """Loads models into this process. Each has its own thread, so the HTTP server answers while it computes."""

    def __init__(
        self, spec: ModelSpec, options: ServeOptions, *, cpus: float | None = None, device: Device = "auto"
    ) -> None:
        """Create the engine without loading a model.

        Args:
            spec: the model.
            options: limits.
            cpus: threads of the model; None for PyTorch's default: one per core that the process may use, or
                OMP_NUM_THREADS.
            device: device of the model; auto: a GPU if the machine has one.
        """
        self._spec, self._options, self._cpus, self._device = spec, options, cpus, device

    def load(self) -> LocalModel:
        """See `ServingEngine`."""
        return LocalModel(
            Batcher(
                self._load, batch_texts=self._options.batch_texts, batch_wait_s=self._options.batch_wait_ms / 1000,
                max_waiting=self._options.max_waiting,
            )
        )  # fmt: skip

    def is_lost(self) -> str:
        """See `ServingEngine`. This engine lives as long as its process."""
        return ""

    def _load(self) -> Predictor:
        import torch  # noqa: PLC0415 - seconds, during which the server answers already

        if self._cpus is not None:
            torch.set_num_threads(max(1, int(self._cpus)))
        predictor = load_checked(self._spec, self._options, self._device_name())
        _log.info("The model runs on %s with %d PyTorch threads", predictor.device, torch.get_num_threads())
        return predictor

    def _device_name(self) -> str | None:
        """PyTorch's name of the device; None uses an accelerator if there is one."""
        if self._device == "cpu":
            return "cpu"
        from cxml.accelerators import accelerator_type  # noqa: PLC0415 - imports torch

        if self._device == "gpu" and accelerator_type() is None:
            raise ConfigError("--device", "gpu", "PyTorch finds no GPU on this machine", "Use --device cpu.")
        return None


class LocalModel:
    """A model of this process, see `Model`."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher
        self.num_labels = len(batcher.predictor.names)
        self.threshold_names = tuple(batcher.predictor.parts.decisions.thresholds)

    async def answer(self, request: PredictRequest) -> bytes:
        """See `Model`."""
        try:
            answer = self._batcher.submit(request)
        except QueueFullError:
            raise queue_full() from None
        try:
            return await asyncio.wrap_future(answer)
        except Exception:  # the batcher has logged it
            raise failed() from None

    def is_answering(self, seconds: float) -> bool:
        """See `Model`."""
        try:
            self._batcher.submit(PredictRequest(CHECK_TEXTS, 1, False)).result(seconds)
        except QueueFullError:
            return True
        except (Exception, futures.TimeoutError) as error:  # any error means that it is not ready
            _log.warning("The model does not respond: %s", type(error).__name__)
            return False
        return True

    def close(self) -> None:
        """See `Model`."""
        self._batcher.close()
