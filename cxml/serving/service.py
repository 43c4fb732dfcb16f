"""The model as a Ray Serve deployment."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException
from pydantic_core import to_json
from ray import serve
from ray.exceptions import RayActorError, TaskCancelledError
from ray.serve import Application
from ray.serve._private import replica
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle

from cxml.prediction import PrecisionChoice, Predictor, RowFormat
from cxml.serving.api import Answer
from cxml.serving.options import ServeOptions

_log = logging.getLogger(__name__)

_ONGOING_PER_REPLICA = 64


@dataclass(frozen=True)
class ModelPlace:
    """What to serve: see `Predictor.from_checkpoint`."""

    url: str
    rows: RowFormat | None
    memory_map: bool
    precision: PrecisionChoice | None = None


@dataclass(frozen=True)
class Asked:
    """One request."""

    texts: list[str]
    k: int
    explain: bool


class Service:
    """One replica: a process with the model."""

    def __init__(self, place: ModelPlace, options: ServeOptions) -> None:
        """Load the model. Raises what `Predictor.from_checkpoint` raises."""
        _open_no_side_door()
        self._predictor = Predictor.from_checkpoint(
            place.url, rows=place.rows, memory_map=place.memory_map, precision=place.precision,
            batch_size=options.batch_texts,
        )  # fmt: skip
        together: Any = self._together  # what serve.batch makes of it has settings
        together.set_max_batch_size(options.batch_texts)
        together.set_batch_wait_timeout_s(options.batch_wait_ms / 1000)

    def num_labels(self) -> int:
        """L."""
        return len(self._predictor.names)

    async def answer(self, asked: Asked) -> bytes:
        """The labels of a request's texts, as JSON: the text of an answer."""
        together: Any = self._together  # takes one request, hands over many
        found = await together(asked)
        return to_json({"predictions": found})

    @serve.batch(batch_size_fn=lambda asked: sum(len(one.texts) for one in asked))
    async def _together(self, asked: list[Asked]) -> list[list[list[dict[str, Any]]]]:
        """Answer requests that came together; in a thread, so that the replica answers health checks meanwhile."""
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
        max_constructor_retry_count=1,
        logging_config={"log_level": logging.WARNING, "enable_access_log": False},
    )(Service)  # fmt: skip
    return deployment.bind(place, options)


def answer_of(handle: DeploymentHandle) -> Answer:
    """What the HTTP interface calls to predict. Raises HTTPException where the replicas do not answer."""

    async def answer(texts: list[str], k: int, explain: bool) -> bytes:
        response: Any = handle.answer.remote(Asked(texts, k, explain))
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except BackPressureError:
            raise HTTPException(429, "too many requests wait; try again", {"Retry-After": "1"}) from None
        except (RayActorError, RayServeException, TaskCancelledError) as error:
            _log.warning("A replica did not answer: %s", type(error).__name__)
            raise HTTPException(503, "the model does not answer; try again", {"Retry-After": "1"}) from None

    return answer
