"""The HTTP interface as a FastAPI application, independent of the engine."""

# No postponed annotations here: FastAPI reads some that only exist inside a function.

import asyncio
from collections.abc import Coroutine
from importlib import resources
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from fastapi.security import HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, create_model

from cxml.config import ThresholdName
from cxml.serving.addresses import LoopbackOnly
from cxml.serving.batching import PredictRequest
from cxml.serving.guard import guarded_route
from cxml.serving.metrics import Measured
from cxml.serving.models import ServedModel
from cxml.serving.options import ServeOptions

_LATER = {"Retry-After": "1"}
_REASONS = 5
_REASON_CHARACTERS = 200


class Cluster(BaseModel):
    """A cluster of the label tree on the path to a label."""

    level: int
    node: int
    num_labels: int
    probability: float = Field(description="that a label of this cluster is true")


class Label(BaseModel):
    """A label of a text."""

    label: int
    name: str
    score: float = Field(description="in [0, 1]; labels are sorted by it, best first")
    title: str | None = Field(None, description="what the label means, where the training data had a labels file")
    probability: float | None = Field(None, description="probability of the label level alone; with `explain`")
    path: list[Cluster] | None = Field(None, description="the clusters above the label, coarse to fine; with `explain`")


class Prediction(BaseModel):
    """The labels of each text, in the order of the texts."""

    predictions: list[list[Label]]


class Facts(BaseModel):
    """What is served, and the limits of a request."""

    model: str
    num_labels: int
    max_texts: int
    max_characters: int
    max_k: int
    needs_token: bool
    thresholds: list[str] = Field(description="names of the model's thresholds")


class Reason(BaseModel):
    """Why a request was rejected."""

    type: str
    loc: list[str | int] = Field(description="location in the request")
    msg: str


class Refusal(BaseModel):
    """The first reasons for the rejection of a request."""

    detail: list[Reason]


def build_api(served: ServedModel, options: ServeOptions) -> FastAPI:
    """The application.

    Args:
        served: the model; it may still be loading.
        options: limits and token.
    """
    api = FastAPI(
        title="cxml", version="1", description="Predict the labels of texts with an extreme multi-label classifier.",
        docs_url=None, redoc_url=None, redirect_slashes=False,
    )  # fmt: skip
    if not (options.token or options.allow_anyone):
        api.add_middleware(LoopbackOnly)
    api.add_middleware(Measured, metrics=served.metrics)

    @api.exception_handler(RequestValidationError)
    async def refused(_: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": _reasons(error)}, 422)

    api.include_router(_predictions(served, options))
    api.include_router(_supervision(served, options))
    return api


def _predictions(served: ServedModel, options: ServeOptions) -> APIRouter:
    router = APIRouter(route_class=guarded_route(options), redirect_slashes=False)
    request_type = _request_type(options)
    # For the OpenAPI document only: the route checks the token before it reads the body.
    bearer = [Depends(HTTPBearer(auto_error=False))] if options.token else []
    refusals: dict[int | str, dict[str, Any]] = {
        **({401: {"description": "missing or wrong token"}} if options.token else {}),
        408: {"description": "the body or the prediction took too long"},
        409: {"description": "the model has no threshold of this name"},
        413: {"description": "the request is too long"},
        415: {"description": "the content type is not JSON"},
        422: {"description": "the request is not valid", "model": Refusal},
        429: {"description": "the queue is full; try again later"},
        500: {"description": "the model failed on this request"},
        503: {"description": "the model is still loading or does not answer; try again later"},
    }

    @router.post("/predict", response_model=Prediction, responses=refusals, dependencies=bearer)
    async def predict(request: request_type, http: Request) -> Response:  # pyright: ignore[reportInvalidTypeForm]
        """The k best labels of each text that reach the threshold; with `explain`, also the path through the tree."""
        with served.in_use() as model:
            if model is None:
                raise HTTPException(503, "the model is still loading; try again", _LATER)
            if isinstance(request.threshold, str) and request.threshold not in model.threshold_names:
                raise _no_such_threshold(request.threshold)
            served.metrics.texts.inc(len(request.texts))
            wanted = PredictRequest(request.texts, request.k, request.explain, request.threshold)
            answering = model.answer(wanted)
            return Response(await _while_connected(http, answering, options.timeout_s), media_type="application/json")

    return router


def _no_such_threshold(name: str) -> HTTPException:
    """The error for a threshold that the model does not have."""
    return HTTPException(409, f"the model has no threshold {name}; /facts lists its thresholds")


def queue_full() -> HTTPException:
    """The error for a request when the queue is full."""
    return HTTPException(429, "the queue is full; try again", _LATER)


def not_answering() -> HTTPException:
    """The error if the model cannot be reached."""
    return HTTPException(503, "the model does not respond; try again", _LATER)


def failed() -> HTTPException:
    """The error for a request on which the model fails, even when it is predicted alone."""
    return HTTPException(500, "the model failed on this request; see the server's log")


async def _while_connected(request: Request, answering: Coroutine[Any, Any, bytes], seconds: float) -> bytes:
    """The answer; cancelled on timeout or when the client disconnects."""
    answer, hung_up = asyncio.ensure_future(answering), asyncio.ensure_future(request.receive())
    try:
        done, _ = await asyncio.wait({answer, hung_up}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        hung_up.cancel()
        answer.cancel()
    if answer in done:
        return answer.result()
    if hung_up in done:
        raise HTTPException(400, "the client disconnected")
    raise HTTPException(408, f"no answer within {seconds:g} seconds; send fewer texts per request")


def _supervision(served: ServedModel, options: ServeOptions) -> APIRouter:
    """Routes without a token. None of them reads a body, waits, or runs the model."""
    router = APIRouter(redirect_slashes=False)

    @router.get("/facts")
    async def facts() -> Facts:
        """What is served, and the limits of a request."""
        return Facts(
            model=served.name, num_labels=served.num_labels, max_texts=options.max_texts,
            max_characters=options.max_characters, max_k=options.max_k, needs_token=bool(options.token),
            thresholds=list(served.threshold_names),
        )  # fmt: skip

    @router.get("/health")
    async def health() -> dict[str, str]:
        """Liveness: answers also while the model loads and while the queue is full."""
        return {"status": "ok"}

    @router.get("/ready", responses={503: {"description": "the model is still loading or does not answer"}})
    async def ready() -> Response:
        """Readiness: whether the model answered the server's last check, made every few seconds."""
        return JSONResponse({"status": served.status}, 200 if served.status == "ready" else 503)

    @router.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> Response:
        """Requests, texts and latencies, for Prometheus."""
        return Response(served.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    page = resources.files("cxml.serving").joinpath("page.html").read_text()

    @router.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def start() -> str:
        return page

    return router


def _reasons(error: RequestValidationError) -> list[dict[str, Any]]:
    """The first reasons, without names and values from the request, which may be long, private or invalid text."""
    known = {"body", "texts", "k", "explain", "threshold"}
    return [
        {
            "type": reason["type"],
            "loc": [part for part in reason["loc"] if isinstance(part, int) or part in known],
            "msg": reason["msg"][:_REASON_CHARACTERS],
        }
        for reason in error.errors()[:_REASONS]
    ]


def _request_type(options: ServeOptions) -> type[BaseModel]:
    """The body of a request. The OpenAPI document includes its limits."""
    text: Any = Annotated[str, Field(max_length=options.max_characters), AfterValidator(_encodable)]
    texts: Any = (Annotated[list[text], Field(max_length=options.max_texts)], ...)
    share: Any = Annotated[float, Field(ge=0, le=1, strict=True)]
    threshold: Any = share | ThresholdName | None
    return create_model(
        "PredictRequest",
        __config__=ConfigDict(extra="forbid"),
        __doc__="Texts to label.",
        texts=texts,
        k=(
            Annotated[int, Field(ge=1, le=options.max_k, strict=True), BeforeValidator(_whole)],
            Field(min(5, options.max_k), description="most labels per text"),
        ),
        threshold=(
            threshold,
            Field(None, description="lowest score of a label, or the name of a threshold; null: none"),
        ),
        explain=(Annotated[bool, Field(strict=True, description="add the path through the label tree")], False),
    )


def _encodable(text: str) -> str:
    """Reject half of a surrogate pair, which JSON can encode but which is not valid text."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("contains half of a surrogate pair") from error
    return text


def _whole(value: object) -> object:
    """Convert 6.0 to an integer, because JSON has one number type. Strings and booleans are not numbers."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
