"""The HTTP interface with a real model and without Ray: answers, limits, tokens, metrics and its OpenAPI document.

Oracles: `Predictor.predict`, and schemathesis for the document.
"""

import asyncio
import dataclasses
import json

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from support.served import AnswersBy

from cxml.serving import ServeOptions
from cxml.serving.api import build_api
from cxml.serving.batching import PredictRequest, answer_together
from cxml.serving.models import ServedModel

OPTIONS = ServeOptions(max_texts=4, max_characters=60, max_k=7)
TEXTS = ["cholera due to vibrio", "typhoid fever"]


def api_of(predictor, options):
    async def answer(asked):
        return answer_together(predictor, [asked])[0]

    model = AnswersBy(answer, len(predictor.names))
    model.threshold_names = tuple(predictor.parts.decisions.thresholds)
    return build_api(ServedModel("a model", model, "ready"), options)


def client_of(api):
    return TestClient(api, base_url="http://127.0.0.1:8000")


@pytest.fixture(scope="module")
def client(predictor):
    with client_of(api_of(predictor, OPTIONS)) as client:
        yield client


def test_answers_are_those_of_the_predictor(client, predictor):
    answer = client.post("/predict", json={"texts": TEXTS, "k": 3})
    assert answer.status_code == 200
    expected = predictor.predict(TEXTS, k=3)
    assert answer.json() == {
        "predictions": [
            [{"label": found.label, "name": found.name, "score": found.score} for found in expected[row]]
            for row in range(len(TEXTS))
        ]
    }


def test_explanations_show_the_way_through_the_tree(client, predictor):
    (labels,) = client.post("/predict", json={"texts": TEXTS[:1], "k": 2, "explain": True}).json()["predictions"]
    (expected,) = predictor.explain(TEXTS[:1], k=2)
    assert [label["name"] for label in labels] == [label.name for label in expected]
    assert [node["node"] for node in labels[0]["path"]] == [node.node for node in expected[0].path]


def test_requests_that_come_together_get_what_they_would_get_alone(predictor):
    asked = [
        PredictRequest(TEXTS, 3, False),
        PredictRequest([], 2, False),
        PredictRequest(TEXTS[:1], 1, True),
        PredictRequest(TEXTS[1:], 5, False),
    ]
    together = [json.loads(answer)["predictions"] for answer in answer_together(predictor, asked)]
    for one, answer in zip(asked, together, strict=True):
        alone = json.loads(answer_together(predictor, [one])[0])["predictions"]
        assert [[label["label"] for label in labels] for labels in answer] == [
            [label["label"] for label in labels] for labels in alone
        ]
        assert all(len(labels) == one.k for labels in answer)
    assert "path" in together[2][0][0]


def test_a_threshold_leaves_out_what_is_less_probable(client, predictor):
    (labels,) = client.post("/predict", json={"texts": TEXTS[:1], "k": 7}).json()["predictions"]
    least = labels[3]["score"]
    (found,) = client.post("/predict", json={"texts": TEXTS[:1], "k": 7, "threshold": least}).json()["predictions"]
    assert found == [label for label in labels if label["score"] >= least]


def test_a_threshold_that_was_not_chosen_for_the_model_is_refused(client):
    answer = client.post("/predict", json={"texts": TEXTS, "threshold": "micro-f1"})
    assert answer.status_code == 409
    assert "micro-f1" in answer.json()["detail"]
    assert client.get("/facts").json()["thresholds"] == []


@pytest.mark.parametrize(
    "body",
    [
        {"texts": ["a"], "threshold": 1.5}, {"texts": ["a"], "threshold": "f2"}, {"texts": ["a"], "threshold": "0.5"},
        {"texts": ["a"] * 5}, {"texts": ["a" * 61]}, {"texts": ["a"], "k": 8}, {"texts": ["a"], "k": 0},
        {"texts": "a"}, {"texts": [1]}, {}, {"texts": ["a"], "more": 1}, {"texts": ["a"], "k": "3"}, [], None,
    ],
)  # fmt: skip
def test_what_the_limits_do_not_allow_is_refused_with_the_reason(client, body):
    answer = client.post("/predict", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["msg"]


def test_more_labels_than_there_are_is_no_error(predictor):
    with client_of(api_of(predictor, ServeOptions(max_k=100_000))) as client:
        (labels,) = client.post("/predict", json={"texts": TEXTS[:1], "k": 100_000}).json()["predictions"]
    assert 0 < len(labels) <= len(predictor.names)


def test_with_a_token_only_its_bearers_are_answered(predictor):
    with client_of(api_of(predictor, dataclasses.replace(OPTIONS, token="s3cret"))) as client:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic s3cret"}):
            answer = client.post("/predict", json={"texts": TEXTS}, headers=headers)
            assert answer.status_code == 401
            assert "s3cret" not in answer.text
        headers = {"Authorization": "Bearer s3cret"}
        assert client.post("/predict", json={"texts": TEXTS}, headers=headers).status_code == 200
        assert client.get("/health").status_code == client.get("/ready").status_code == 200
        assert client.get("/facts").json()["needs_token"]
    assert "s3cret" not in repr(dataclasses.replace(OPTIONS, token="s3cret"))


@pytest.mark.parametrize("status", ["loading", "not ready"])
def test_a_server_is_healthy_and_says_that_its_model_is_not_ready(status):
    with client_of(build_api(ServedModel("a model", status=status), OPTIONS)) as client:
        assert client.get("/health").status_code == 200
        ready = client.get("/ready")
        assert (ready.status_code, ready.json()) == (503, {"status": status})
        answer = client.post("/predict", json={"texts": TEXTS})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_a_model_that_takes_too_long_is_not_waited_for():
    given_up = []

    async def slow(asked):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            given_up.append(asked.texts)
            raise

    options = dataclasses.replace(OPTIONS, timeout_s=0.1)
    with client_of(build_api(ServedModel("a model", AnswersBy(slow), "ready"), options)) as client:
        assert client.post("/predict", json={"texts": TEXTS}).status_code == 408
    assert given_up == [TEXTS]


def test_metrics_count_answers_and_texts(predictor):
    with client_of(api_of(predictor, OPTIONS)) as client:
        client.post("/predict", json={"texts": TEXTS})
        client.post("/predict", json={})
        client.get("/nowhere/1")
        client.get("/nowhere/2")
        metrics = client.get("/metrics").text
    for line in (
        'cxml_requests_total{path="/predict",status="200"} 1.0',
        'cxml_requests_total{path="/predict",status="422"} 1.0',
        'cxml_requests_total{path="other",status="404"} 2.0',
        "cxml_texts_total 2.0",
    ):
        assert line in metrics


def test_the_page_needs_nothing_from_elsewhere(client):
    page = client.get("/").text
    assert "<textarea" in page
    assert "http:" not in page
    assert "https:" not in page


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_long_is_turned_away(client, chunked):
    content = b'{"texts": ["' + b"a" * 50_000 + b'"]}'
    content = iter([content[:100], content[100:]]) if chunked else content
    headers = {"Content-Type": "application/json"}
    assert client.post("/predict", content=content, headers=headers).status_code == 413
    assert client.post("/predict", json={"texts": TEXTS}).status_code == 200


@pytest.mark.parametrize("token", ["", "s3cret"])
def test_no_request_breaks_the_promises_of_the_document(predictor, token):
    headers = {"Authorization": f"Bearer {token}"} if token else {"Host": "localhost"}
    api = api_of(predictor, dataclasses.replace(OPTIONS, token=token))
    schema = schemathesis.openapi.from_asgi("/openapi.json", api, headers=headers)
    operations = [operation.ok() for operation in schema.get_all_operations()]
    assert {operation.path for operation in operations} == {"/predict", "/facts", "/health", "/ready", "/metrics"}
    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(max_examples=30, suppress_health_check=list(HealthCheck))
        def check(case):
            case.call_and_validate(headers=headers)

        check()
