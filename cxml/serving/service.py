"""The model as a Ray Serve deployment."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve._private import replica

from cxml.prediction import Predictor, RowFormat
from cxml.serving.api import build_api
from cxml.serving.options import ServeOptions

_ONGOING_PER_REPLICA = 64


@dataclass(frozen=True)
class ModelPlace:
    """What to serve: see `Predictor.from_checkpoint`."""

    url: str
    rows: RowFormat | None
    memory_map: bool


@dataclass(frozen=True)
class Asked:
    """One request."""

    texts: list[str]
    k: int
    explain: bool


@serve.ingress()
class Service:
    """One replica: a model, and the interface to it."""

    def __init__(self, place: ModelPlace, options: ServeOptions) -> None:
        """Load the model. Raises what `Predictor.from_checkpoint` raises."""
        _open_no_side_door()
        self._place, self._options = place, options
        self._predictor = Predictor.from_checkpoint(
            place.url, rows=place.rows, memory_map=place.memory_map, batch_size=options.batch_texts
        )
        together: Any = self._together  # what serve.batch makes of it has settings
        together.set_max_batch_size(options.batch_texts)
        together.set_batch_wait_timeout_s(options.batch_wait_ms / 1000)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The interface; Ray Serve asks for it once the model is loaded."""
        num_labels = len(self._predictor.names)
        return build_api(self._answer, self._options, model=self._place.url, num_labels=num_labels)

    async def _answer(self, texts: list[str], k: int, explain: bool) -> list[list[dict[str, Any]]]:
        together: Any = self._together  # takes one request, hands over many
        return await together(Asked(texts, k, explain))

    @serve.batch(batch_size_fn=lambda asked: sum(len(one.texts) for one in asked))
    async def _together(self, asked: list[Asked]) -> list[list[list[dict[str, Any]]]]:
        """Answer requests that came together; in a thread, so that the replica goes on answering health checks."""
        return await asyncio.to_thread(predict_together, self._predictor, asked)


def _open_no_side_door() -> None:
    """Keep this replica from listening for calls of other deployments, of which there are none.

    Ray Serve would do so on all interfaces, and unpickle whatever anyone sends, without asking for a token.
    """
    replica.add_port_to_grpc_server = _no_port  # pyright: ignore[reportPrivateImportUsage]


def _no_port(server: object, address: str) -> int:  # noqa: ARG001
    return 0


def predict_together(predictor: Predictor, asked: list[Asked]) -> list[list[list[dict[str, Any]]]]:
    """The answers to several requests: those that want explanations text by text of one pass, the others of another."""
    answers: list[list[list[dict[str, Any]]]] = [[] for _ in asked]
    for explain in (False, True):
        places = [place for place, one in enumerate(asked) if one.explain is explain]
        texts = [text for place in places for text in asked[place].texts]
        if not texts:
            continue
        k = max(asked[place].k for place in places)
        found = predictor.explain(texts, k) if explain else predictor.predict(texts, k)
        at = 0
        for place in places:
            one = asked[place]
            answers[place] = [
                [dataclasses.asdict(label) for label in found[at + row][: one.k]] for row in range(len(one.texts))
            ]
            at += len(one.texts)
    return answers


def application(
    place: ModelPlace, options: ServeOptions, *, num_replicas: int, resources: Mapping[str, float]
) -> Application:
    """The deployment, ready for `serve.run`.

    Args:
        place: the model.
        options: limits.
        num_replicas: processes, each with the model.
        resources: what each of them reserves, see `cxml.ray_cluster.worker_resources`.
    """
    deployment: Any = serve.deployment(
        name="cxml", num_replicas=num_replicas,
        ray_actor_options={"num_cpus": resources["CPU"], "num_gpus": resources.get("GPU", 0)},
        max_ongoing_requests=_ONGOING_PER_REPLICA, max_queued_requests=options.max_waiting,
        backpressure_config={"status_code": 429, "retry_after_s": 1}, max_constructor_retry_count=1,
        logging_config={"log_level": logging.WARNING, "enable_access_log": False},
    )(Service)  # fmt: skip
    return deployment.bind(place, options)
