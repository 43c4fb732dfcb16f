"""The HTTP server under slow, greedy and broken clients. No model is needed.

Oracle: raw sockets, and a good request that must be answered at the same time.
"""

import asyncio
import contextlib
import dataclasses
import os
import signal
import socket
import threading

import httpx
import pytest
from support.launching import wait_until
from support.served import TOKEN, http_server_for, is_listening

from cxml.serving import ServeOptions

OPTIONS = ServeOptions(token=TOKEN, head_timeout_s=1.0, body_timeout_s=1.0)
BODY = b'{"texts": ["a"]}'
BEARER = f"Bearer {TOKEN}".encode()


async def answer(asked):
    return b'{"predictions": [[]]}'


@pytest.fixture(scope="module")
def port():
    with http_server_for(answer, OPTIONS) as (port, _):
        yield port


def head(*headers, length=16):
    lines = [b"POST /predict HTTP/1.1", b"Host: a", b"Content-Type: application/json", b"Content-Length: %d" % length]
    return b"\r\n".join([*lines, *headers, b"", b""])


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def status_of(connection):
    """The status of the next answer; None if the connection ends without one."""
    with contextlib.suppress(ConnectionError):
        received = b""
        while b"\r\n" not in received:
            part = connection.recv(65536)
            if not part:
                return None
            received += part
        return int(received.split(b" ")[1])


def is_served(port):
    answer = httpx.post(
        f"http://127.0.0.1:{port}/predict", json={"texts": ["a"]}, headers={"Authorization": BEARER}, timeout=30
    )
    return answer.status_code == 200


@pytest.mark.parametrize(
    "authorization",
    [
        (), (b"Authorization: Bearer wrong",), (b"Authorization: Bearer ",), (b"Authorization: Bearer",),
        (b"Authorization:",), (b"Authorization: Basic " + TOKEN.encode(),), (b"Authorization: " + TOKEN.encode(),),
        (b"Authorization: Bearer " + TOKEN.encode() + b"x",), (b"Authorization: Bearer " + TOKEN[:-1].encode(),),
        (b"Authorization: " + BEARER, b"Authorization: Bearer wrong"), (b"Authorization: Bearer \xff\xfe",),
        (b"X-Authorization: " + BEARER,), (b"Cookie: token=" + TOKEN.encode(),),
    ],
)  # fmt: skip
def test_without_the_token_a_request_is_refused_before_its_body_comes(port, authorization):
    with connect(port) as connection:
        connection.sendall(head(*authorization, length=1000) + b"{")
        assert status_of(connection) == 401


@pytest.mark.parametrize("scheme", [b"Bearer", b"bearer", b"BEARER"])
def test_with_the_token_a_request_is_answered(port, scheme):
    with connect(port) as connection:
        connection.sendall(head(b"Authorization: " + scheme + b" " + TOKEN.encode()) + BODY)
        assert status_of(connection) == 200


def test_after_a_refusal_the_connection_takes_the_next_request(port):
    with connect(port) as connection:
        connection.sendall(head(length=400_000))
        assert status_of(connection) == 401
        connection.sendall(b"x" * 400_000 + head(b"Authorization: " + BEARER) + BODY)
        assert status_of(connection) == 200


@pytest.mark.parametrize("length", [b"0", b"99999999999"])
def test_a_length_beyond_the_limit_is_refused_before_the_body_comes(port, length):
    with connect(port) as connection:
        connection.sendall(head(b"Authorization: " + BEARER, length=int(length)))
        assert status_of(connection) == (413 if int(length) else 422)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", None), (b"P", None), (b"\r\n\r\n", None), (head()[:-2], None),
        (b"GET /health HTTP/1.1\r\nHost: a\r\nX: ", None), (head(b"Authorization: " + BEARER, length=1000), 408),
        (head(b"Authorization: " + BEARER, length=1000) + BODY, 408),
        (head(b"Authorization: " + BEARER, b"Expect: 100-continue", length=1000), 100),
    ],
)  # fmt: skip
def test_a_client_that_stops_half_way_is_not_waited_for(port, sent, status):
    with connect(port) as connection:
        connection.sendall(sent)
        assert status_of(connection) == status
        with contextlib.suppress(ConnectionError):
            while connection.recv(65536):  # until the server hangs up
                pass


def test_a_client_that_sends_a_byte_now_and_then_is_not_waited_for_either(port):
    for start, slow in (
        (b"GET /health HTTP/1.1\r\nX: ", b"x"),
        (head(b"Authorization: " + BEARER, length=10**6), b" "),
    ):
        with connect(port) as connection:
            connection.sendall(start)
            with contextlib.suppress(ConnectionError):
                connection.settimeout(0.1)
                for _ in range(600):
                    connection.sendall(slow)
                    with contextlib.suppress(TimeoutError):
                        if not connection.recv(65536):
                            break
                else:
                    pytest.fail("the server went on reading")


@pytest.mark.parametrize("slow", [b"POST /predict HT", head(b"Authorization: " + BEARER, length=1000) + b"{"])
def test_more_slow_clients_than_connections_do_not_keep_others_out(slow):
    patient = dataclasses.replace(OPTIONS, head_timeout_s=60, body_timeout_s=60)
    with http_server_for(answer, patient) as (port, server), contextlib.ExitStack() as stack:
        for _ in range(700):
            stack.enter_context(connect(port)).sendall(slow)
        assert is_served(port)
        assert httpx.get(f"http://127.0.0.1:{port}/health", timeout=30).status_code == 200
        assert len(server._server.server_state.connections) <= 501


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /health HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * 200 + b"\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 2_000_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 2_000_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n" * 5000,
        head(b"Authorization: " + BEARER, b"Transfer-Encoding: chunked", length=0),
        head(b"Authorization: " + BEARER).replace(b"Content-Length: 16", b"Transfer-Encoding: chunked")
        + b"0\r\n" + b"a: b\r\n" * 200_000,
        head().replace(b"16", b"-1"), head().replace(b"16", b"9" * 30), head().replace(b"16", b"1, 2"),
        b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00" * 100,
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", b"\0" * 1000, b"GET /health HTTP/9.9\r\nHost: a\r\n\r\n",
    ],
)  # fmt: skip
def test_what_is_no_honest_http_ends_its_connection_only(port, sent):
    with connect(port) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(sent)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
        assert b"Traceback" not in received
        assert received.count(b"HTTP/1.1 200") < 1000
    assert is_served(port)


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket"])
@pytest.mark.parametrize("length", [b"Content-Length: 40", b"Transfer-Encoding: chunked"])
def test_the_body_of_a_request_for_an_upgrade_is_no_request(port, protocol, length):
    inner = b"GET /health HTTP/1.1\r\nHost: a\r\nX: aa\r\n\r\n"
    upgrade = [b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: " + protocol, b"HTTP2-Settings: AAMAAABk"]
    lines = [b"POST /predict HTTP/1.1", b"Host: a", b"Authorization: " + BEARER, *upgrade, length, b"", b""]
    received = b""
    with connect(port) as connection:
        connection.sendall(b"\r\n".join(lines))
        with contextlib.suppress(ConnectionError):
            part = connection.recv(65536)
            while part:
                received += part
                connection.sendall(inner)
                part = connection.recv(65536)
    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.endswith(b"without the header Upgrade.")


def test_a_request_without_a_body_that_asks_for_an_upgrade_is_answered(port):
    with connect(port) as connection:
        for _ in range(2):
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
            assert status_of(connection) == 200
            connection.settimeout(30)


def test_an_answer_that_nobody_reads_does_not_keep_its_connection():
    async def long_answer(asked):
        return b"x" * 30_000_000

    with http_server_for(long_answer, dataclasses.replace(OPTIONS, timeout_s=1.0)) as (port, server):
        connections = server._server.server_state.connections
        with connect(port) as connection:
            connection.sendall(head(b"Authorization: " + BEARER) + BODY)
            assert status_of(connection) == 200
            wait_until(lambda: not connections, "the connection is still there")


def test_bytes_of_all_requests_together_are_limited():
    release = threading.Event()

    async def slow(asked):
        await asyncio.to_thread(release.wait)
        return await answer(asked)

    options = ServeOptions(token=TOKEN, max_texts=1, max_characters=4_000_000, body_timeout_s=120, timeout_s=120)
    body = b'{"texts": ["' + b"a" * 4_000_000 + b'"' + b" " * 30_000_000 + b"]}"
    with http_server_for(slow, options) as (port, _), contextlib.ExitStack() as stack:
        connections = [stack.enter_context(connect(port)) for _ in range(6)]
        senders = [
            threading.Thread(target=one.sendall, args=(head(b"Authorization: " + BEARER, length=len(body)) + body,))
            for one in connections
        ]
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        release.set()
        statuses = sorted(status_of(one) or 0 for one in connections)
        assert set(statuses) == {200, 503}
        assert is_served(port), "the bytes of those requests are given back"


def test_told_to_end_it_refuses_new_clients_and_answers_those_that_wait():
    release, waits = threading.Event(), threading.Event()

    async def slow(asked):
        waits.set()
        await asyncio.to_thread(release.wait)
        return await answer(asked)

    with http_server_for(slow, OPTIONS) as (port, server), connect(port) as connection, connect(port) as idle:
        connection.sendall(head(b"Authorization: " + BEARER) + BODY)
        assert waits.wait(30)
        ending = threading.Thread(target=server.end)
        ending.start()
        wait_until(lambda: not is_listening(port), "it still listens")
        assert status_of(idle) is None
        release.set()
        assert status_of(connection) == 200
        ending.join(30)
        assert not ending.is_alive()


class Told(BaseException):
    pass


def test_told_to_end_while_nothing_else_happens_it_answers_those_that_wait():
    asked, may_answer = threading.Event(), threading.Event()

    async def wait(_):
        asked.set()
        while not may_answer.is_set():
            await asyncio.sleep(0.01)
        return b'{"predictions": [[]]}'

    def told(*_):
        threading.Timer(1.0, may_answer.set).start()  # while it ends
        raise Told

    with http_server_for(wait, OPTIONS) as (port, server), connect(port) as connection:
        connection.sendall(head(b"Authorization: " + BEARER) + BODY)
        assert asked.wait(30)
        before = signal.signal(signal.SIGUSR2, told)
        try:
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGUSR2)).start()
            with pytest.raises(Told):
                threading.Event().wait(30)
        finally:
            signal.signal(signal.SIGUSR2, before)
        server.end()
        assert may_answer.is_set()
        assert status_of(connection) == 200
