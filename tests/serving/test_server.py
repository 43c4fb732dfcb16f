"""The server with each engine: its command and real requests over HTTP.

Oracle: `Predictor.predict` on the same texts.
"""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from support.launching import ROOT
from support.served import TOKEN

import cxml

TEXTS = ["cholera due to vibrio", "typhoid fever"]


@pytest.fixture(scope="module", params=["local", "ray"])
def engine(request):
    return request.param


def ask(address, body, token=TOKEN, timeout=60):
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.post(f"{address}/predict", json=body, headers=headers, timeout=timeout)


def test_it_answers_what_the_predictor_says(server, output):
    address, _ = server
    answer = ask(address, {"texts": TEXTS, "k": 3})
    assert answer.status_code == 200
    expected = cxml.Predictor.from_checkpoint(output).predict(TEXTS, k=3)
    names = [[label["name"] for label in labels] for labels in answer.json()["predictions"]]
    assert names == [[label.name for label in expected[row]] for row in range(len(TEXTS))]


def test_many_clients_at_once_each_get_their_own_answer(server, output):
    address, _ = server
    texts = [f"{text} {number}" for number in range(12) for text in TEXTS]
    expected = cxml.Predictor.from_checkpoint(output).predict(texts, k=2)

    def labels_of(row):
        for _ in range(100):
            answer = ask(address, {"texts": [texts[row]], "k": 2})
            if answer.status_code != 429:
                return [label["label"] for label in answer.json()["predictions"][0]]
            assert answer.headers["retry-after"] == "1"
        pytest.fail("always told to wait")

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(labels_of, range(len(texts))))
    assert found == expected.labels.tolist()


def test_limits_and_token_hold(server):
    address, log = server
    assert ask(address, {"texts": TEXTS}, token="").status_code == 401
    assert ask(address, {"texts": TEXTS}, token="wrong").status_code == 401
    assert ask(address, {"texts": ["a"] * 9}).status_code == 422
    assert ask(address, {"texts": ["a" * 100_000]}).status_code == 413
    assert httpx.get(f"{address}/nowhere").status_code == 404
    assert ask(address, {"texts": TEXTS}).status_code == 200
    assert TOKEN not in log.read_text()


def test_supervisors_and_monitors_get_answers(server):
    address, _ = server
    assert httpx.get(f"{address}/health").json() == {"status": "ok"}
    assert "cxml_requests_total" in httpx.get(f"{address}/metrics").text
    document = httpx.get(f"{address}/openapi.json").json()
    assert document["components"]["schemas"]["PredictRequest"]["properties"]["texts"]["maxItems"] == 8
    assert "<textarea" in httpx.get(address).text


def test_a_model_that_is_not_there_and_a_port_that_is_taken_are_refused(server, output, tmp_path):
    port = server[0].rpartition(":")[2]
    for words, reason in (([str(tmp_path), "--port", "0"], "no trained model"), ([output, "--port", port], "--port")):
        command = [sys.executable, "-m", "cxml.serve", *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 2
        assert reason in done.stderr
        assert "Traceback" not in done.stderr


def test_bad_requests_do_not_hurt_the_good_ones(server):
    address, _ = server
    bad = [b"", b"{", b"[]", b'{"texts": 1}', b"\xff\xfe", json.dumps({"texts": ["\ud800"]}).encode()]
    for content in bad * 3:
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        answer = httpx.post(f"{address}/predict", content=content, headers=headers, timeout=60)
        assert 400 <= answer.status_code < 500, content
        assert ask(address, {"texts": TEXTS[:1]}).status_code == 200
