"""The HTTP interface as a FastAPI application, whoever predicts behind it."""

# Annotations are values here, not text: FastAPI reads some that only exist inside a function.

import hmac
import time
from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, create_model

from cxml.serving.body_limit import BodyLimit
from cxml.serving.options import ServeOptions

Answer = Callable[[list[str], int, bool], Awaitable[list[list[dict[str, Any]]]]]
"""`await answer(texts, k, explain)`: for each text its best labels, as the fields of `Label`."""


class Cluster(BaseModel):
    """A cluster of the label tree on the way to a label."""

    level: int
    node: int
    num_labels: int
    probability: float = Field(description="that a label of this cluster is true")


class Label(BaseModel):
    """A label of a text."""

    label: int
    name: str
    score: float = Field(description="in [0, 1]; labels come best first")
    probability: float | None = Field(None, description="of the label alone; with `explain`")
    path: list[Cluster] | None = Field(None, description="the clusters above it, coarse to fine; with `explain`")


class Prediction(BaseModel):
    """The answer, in the order of the texts."""

    predictions: list[list[Label]]


class Facts(BaseModel):
    """What is served, and the limits of a request."""

    model: str
    num_labels: int
    max_texts: int
    max_characters: int
    max_k: int
    needs_token: bool


def build_api(answer: Answer, options: ServeOptions, *, model: str, num_labels: int) -> FastAPI:
    """The application.

    Args:
        answer: predicts.
        options: limits and token.
        model: what the page calls the model.
        num_labels: L.
    """
    api = FastAPI(
        title="cxml", version="1", description="The few right labels of a text, out of very many.",
        docs_url=None, redoc_url=None,
    )  # fmt: skip
    metrics = _Metrics()
    request_type = _request_type(options)
    guards = [_bearer(options.token)] if options.token else []
    refusals: dict[int | str, dict[str, Any]] = {
        **({401: {"description": "no token, or a wrong one"}} if options.token else {}),
        408: {"description": "took too long"},
        413: {"description": "the request is too long"},
        429: {"description": "too many requests wait; try again later"},
    }

    @api.exception_handler(RequestValidationError)
    async def refused(_: Request, error: RequestValidationError) -> JSONResponse:
        # Without the input, which FastAPI would send back: it may be long, private, or no valid text.
        reasons = [{name: reason[name] for name in ("type", "loc", "msg")} for reason in error.errors()]
        return JSONResponse({"detail": reasons}, 422)

    @api.middleware("http")
    async def measured(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        began = time.perf_counter()
        response = await call_next(request)
        metrics.observe(request.url.path, response.status_code, time.perf_counter() - began)
        return response

    api.add_middleware(BodyLimit, most=options.max_body_bytes)

    @api.post("/predict", response_model_exclude_none=True, responses=refusals, dependencies=guards)
    async def predict(request: request_type) -> Prediction:  # pyright: ignore[reportInvalidTypeForm]
        """The k best labels of each text; with `explain` also the way through the label tree to each."""
        if not request.texts:
            return Prediction(predictions=[])
        metrics.texts.inc(len(request.texts))
        found = await answer(request.texts, min(request.k, num_labels), request.explain)
        return Prediction.model_validate({"predictions": found})

    @api.get("/facts")
    async def facts() -> Facts:
        """What is served, and the limits of a request."""
        return Facts(
            model=model, num_labels=num_labels, max_texts=options.max_texts, max_characters=options.max_characters,
            max_k=options.max_k, needs_token=bool(options.token),
        )  # fmt: skip

    @api.get("/health")
    async def health() -> dict[str, str]:
        """Whether the process lives; it is asked while the model works too."""
        return {"status": "ok"}

    @api.get("/ready", responses={503: {"description": "the model does not answer"}})
    async def ready() -> Response:
        """Whether the model answers: it predicts one word."""
        try:
            await answer(["ready"], 1, False)
        except Exception as error:  # whatever is wrong, it is not ready
            return JSONResponse({"status": "not ready", "reason": type(error).__name__}, 503)
        return JSONResponse({"status": "ready"})

    @api.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> Response:
        """Requests, texts and latencies of this replica, for Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @api.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> str:
        return resources.files("cxml.serving").joinpath("page.html").read_text()

    return api


def _request_type(options: ServeOptions) -> type[BaseModel]:
    """The body of a request; its limits stand in the OpenAPI document too."""
    text: Any = Annotated[str, Field(max_length=options.max_characters), AfterValidator(_encodable)]
    texts: Any = (Annotated[list[text], Field(max_length=options.max_texts)], ...)
    return create_model(
        "PredictRequest",
        __config__=ConfigDict(extra="forbid"),
        __doc__="Texts to label.",
        texts=texts,
        k=(
            Annotated[int, Field(ge=1, le=options.max_k, strict=True), BeforeValidator(_whole)],
            Field(min(5, options.max_k), description="labels per text"),
        ),
        explain=(Annotated[bool, Field(strict=True, description="add the way through the label tree")], False),
    )


def _encodable(text: str) -> str:
    """Half of a surrogate pair, which JSON can write, is no text."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("holds half of a surrogate pair") from error
    return text


def _whole(value: object) -> object:
    """JSON has one kind of number, so 6.0 is an integer too; a string or a truth value is none."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _bearer(token: str) -> Any:  # noqa: ANN401 - FastAPI's dependencies have no type
    scheme = HTTPBearer(auto_error=False)

    async def check(given: Annotated[HTTPAuthorizationCredentials | None, Depends(scheme)]) -> None:
        if not (given and hmac.compare_digest(given.credentials.encode(), token.encode())):
            raise HTTPException(401, "a token is needed: Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"})

    return Depends(check)


class _Metrics:
    """Counters of one application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        names = ["path", "status"]
        self._requests = Counter("cxml_requests", "Requests answered", names, registry=self.registry)
        self._seconds = Histogram("cxml_request_seconds", "Seconds until the answer", ["path"], registry=self.registry)
        self.texts = Counter("cxml_texts", "Texts of accepted requests", registry=self.registry)
        self._paths = {"/predict", "/facts", "/health", "/ready", "/metrics", "/"}

    def observe(self, path: str, status: int, seconds: float) -> None:
        """Count an answer; paths that are nowhere count as one, so that nobody can fill the memory with them."""
        known = path if path in self._paths else "other"
        self._requests.labels(known, str(status)).inc()
        self._seconds.labels(known).observe(seconds)
