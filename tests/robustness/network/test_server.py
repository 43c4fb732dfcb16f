"""The server as its command starts it, without a token: hostile requests do not keep others from their answers.

Oracle: good requests that must be answered at the same time.
"""

import contextlib
import json
import re
import shlex
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from support.launching import ROOT
from support.served import served, trained

from cxml.commands.serve import main

JSON = {"Content-Type": "application/json"}
EMOJI = b'"' + b"\\ud83d\\ude00" * 20_000 + b'"'
HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("hostile"))


@pytest.fixture(scope="module")
def address(output, tmp_path_factory):
    log = tmp_path_factory.mktemp("server") / "log.txt"
    options = ["--max-waiting", "4", "--head-timeout-s", "3", "--body-timeout-s", "3"]
    with served(output, log, *options, token="") as address:
        yield address
    assert "Traceback" not in log.read_text()


def is_answering(address):
    """Whether a good request gets its answer, and `/health` its own."""
    for _ in range(100):
        answer = httpx.post(f"{address}/predict", json={"texts": ["typhoid fever"]}, timeout=60)
        if answer.status_code != 429:
            break
    return answer.status_code == httpx.get(f"{address}/health", timeout=60).status_code == 200


@pytest.mark.parametrize("token", [None, "", "  ", "\n"])
def test_the_command_does_not_let_everyone_ask_by_itself(output, monkeypatch, capsys, token):
    monkeypatch.delenv("CXML_SERVE_TOKEN", raising=False)
    if token is not None:
        monkeypatch.setenv("CXML_SERVE_TOKEN", token)
    assert main([output, "--host", "0.0.0.0", "--port", "0"]) == 2
    assert "CXML_SERVE_TOKEN" in capsys.readouterr().err


def connections(address, stack, sent, count):
    host, port = address.removeprefix("http://").split(":")
    opened = [stack.enter_context(socket.create_connection((host, int(port)), timeout=60)) for _ in range(count)]
    for connection in opened:
        connection.sendall(sent)
    return opened


@pytest.mark.parametrize(("sent", "end"), [(HEAD, b"HTTP/1.1 408"), (HEAD[:30], b""), (b"", b"")])
def test_slow_clients_are_told_to_go_and_others_are_answered_meanwhile(address, sent, end):
    with contextlib.ExitStack() as stack:
        slow = connections(address, stack, sent, 300)
        for _ in range(3):
            assert is_answering(address)
        for connection in slow:
            with contextlib.suppress(ConnectionError):
                assert connection.recv(12) == end
    assert is_answering(address)


@pytest.mark.parametrize(
    "body",
    [
        b'{"texts": ["a"], ' + b",".join(b'"secret%d": 1' % key for key in range(500_000)) + b"}",
        b"{" + b",".join(b'"secret%d": 1' % key for key in range(30)) + b"}",
        b"{" + b'"k": 1,' * 1_000_000 + b'"k": 1}',
        b'{"secret' + b"x" * 200_000 + b'": 1, "texts": []}', b'{"texts": {"secret": 1}}', b'{"texts": "secret"}',
        b'{"texts": [' + b"1," * 3_500_000 + b"1]}", b'{"texts": [' + b"[]," * 2_300_000 + b"1]}",
        b'{"texts": [' + b"1," * 63 + b"1]}", b'{"texts":' * 700_000, b"[" * 7_000_000,
        b'{"k": ' + b"9" * 7_000_000 + b"}", b'{"k": 1.' + b"9" * 7_000_000 + b"}",
        b'{"k": 1e999999999, "texts": []}', b'{"k": ' + b"9" * 40 + b', "texts": []}',
        b" " * 7_000_000, b'{"texts": ["' + b"secret" * 1_000_000 + b'"]}', b'{"texts": ["' + b'\\"' * 3_500_000,
        b"\0" * 7_000_000, b'{"texts": ["\\ud800"]}',
    ],
)  # fmt: skip
def test_a_flood_of_requests_that_blow_up_is_refused_in_few_words(address, body):
    def refused(_):
        return httpx.post(f"{address}/predict", content=body, headers=JSON, timeout=60)

    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(refused, range(4))
        assert is_answering(address)
        for answer in answers:
            assert answer.status_code == 422
            assert len(answer.content) < 1000
            assert "secret" not in answer.text
            assert 1 <= len(answer.json()["detail"]) <= 5


def test_the_largest_request_within_the_documented_limits_is_answered(address):
    body = b'{"texts": [' + b", ".join([EMOJI] * 64) + b"]}"
    answer = httpx.post(f"{address}/predict", content=body, headers=JSON, timeout=60)
    assert answer.status_code == 200
    assert len(answer.json()["predictions"]) == 64


def test_a_full_queue_turns_requests_away_and_the_server_stays_healthy(address):
    body = b'{"texts": [' + b", ".join([EMOJI[: 12 * 600 + 1] + b'"'] * 64) + b"]}"

    def status(_):
        return httpx.post(f"{address}/predict", content=body, headers=JSON, timeout=120).status_code

    with ThreadPoolExecutor(100) as pool:
        statuses = pool.map(status, range(100))
        for _ in range(10):
            assert httpx.get(f"{address}/health", timeout=60).status_code == 200
            assert httpx.get(f"{address}/ready", timeout=60).status_code == 200
        found = set(statuses)
    assert 429 in found
    assert found <= {200, 408, 429}
    assert is_answering(address)


def test_the_documented_requests_are_answered(address):
    page = (Path(ROOT) / "docs" / "how-to" / "serve.md").read_text()
    commands = re.findall(r"^curl .*(?:\n {4}.*)*", page, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        words = shlex.split(command.replace("\\\n", "").replace("http://127.0.0.1:8000", address))
        done = subprocess.run([*words, "--silent"], capture_output=True, text=True, timeout=60, check=True)
        assert len(json.loads(done.stdout)["predictions"][0]) == 3


def test_strangers_learn_no_path_and_add_no_series(address, output):
    facts = httpx.get(f"{address}/facts").json()
    assert facts["model"] == "out"
    assert "/" not in json.dumps(facts)
    for number in range(50):
        httpx.request(
            f"GET{number}" if number % 2 else "GET", f"{address}/{number}?x={number}", headers={"X": str(number)}
        )
    httpx.get(f"{address}/facts", headers={"Host": "evil.com"})
    series = [
        line for line in httpx.get(f"{address}/metrics").text.splitlines() if line.startswith("cxml_requests_total")
    ]
    assert {re.search('path="(.*?)"', line)[1] for line in series} <= {
        "/predict", "/facts", "/health", "/ready", "/metrics", "/", "other",
    }  # fmt: skip
    assert output not in httpx.get(f"{address}/metrics").text
    assert httpx.get(f"{address}/predict/", follow_redirects=False).status_code == 404
