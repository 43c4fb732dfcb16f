"""The addresses that a server may listen on without a token, and the host names that it then answers.

Oracle: real sockets and requests.
"""

import socket

import httpx
import pytest
from support.served import TOKEN, http_server_for

from cxml.errors import ConfigError
from cxml.serving import ServeOptions
from cxml.serving.addresses import bind, require_loopback


async def answer(asked):
    return b'{"predictions": [[]]}'


def own_addresses():
    """Addresses of this machine that are not of the loopback interface."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return []
        return [probe.getsockname()[0]]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.2", "localhost", "LOCALHOST", "::1", "127.1", "::ffff:127.0.0.1"]
)
def test_loopback_addresses_need_no_token(host):
    try:
        sockets = bind(host, 0)
    except ConfigError:
        pytest.skip("this machine has no such address")
    require_loopback(sockets, host)
    assert len({one.getsockname()[1] for one in sockets}) == 1
    for one in sockets:
        one.close()


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "0", "0x0", "00.00.00.00", "::0", "::ffff:0.0.0.0", *own_addresses()]
)
def test_addresses_that_others_reach_are_refused_and_let_go(host):
    sockets = bind(host, 0)
    port = sockets[0].getsockname()[1]
    with pytest.raises(ConfigError, match="--allow-anyone"):
        require_loopback(sockets, host)
    assert all(one.fileno() == -1 for one in sockets)
    for one in bind(host, port):  # the same address: on another one the port may be somebody else's
        one.close()


@pytest.mark.parametrize(
    "host", ["", "no.such.host.invalid", "192.0.2.1", "256.0.0.1", "a b", "x" * 300, "\udcff", "é" * 70]
)
def test_hosts_that_are_not_this_machine_are_refused(host):
    with pytest.raises(ConfigError, match="--"):
        bind(host, 0)


@pytest.mark.parametrize("token", ["a b", "a\tb", "é", "a\x00b", "a\u200bb"])
def test_tokens_that_no_header_carries_are_refused_without_repeating_them(token):
    with pytest.raises(ConfigError, match="CXML_SERVE_TOKEN") as caught:
        ServeOptions(token=token)
    assert token not in str(caught.value)


def status_of(port, *headers, version=b"HTTP/1.1"):
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"\r\n".join([b"GET /facts " + version, *headers, b"Connection: close", b"", b""]))
        return int(connection.recv(65536).split(b" ")[1])


@pytest.fixture(scope="module")
def port():
    with http_server_for(answer, ServeOptions()) as (port, _):
        yield port


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:8000", "127.9.9.9:1", "localhost", "localhost:9000", "LocalHost", "[::1]", "[::1]:8000"],
)
def test_without_a_token_loopback_names_are_answered(port, host):
    assert status_of(port, b"Host: " + host.encode()) == 200
    assert status_of(port, b"Host: " + host.encode(), b"Origin: http://" + host.encode()) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.com", "evil.com:8000", "localhost.evil.com", "127.0.0.1.evil.com", "evil.localhost.com", "localhost.",
        "a@localhost", "localhost@evil.com", "localhost:80@evil.com", "127.1", "2130706433", "0x7f000001",
        "0177.0.0.1", "0.0.0.0", "0", "192.168.1.5", "[::]", "[::1%lo]", "[::1%25lo]", "::1", "[::ffff:192.168.1.5]",
        "", " ", "localhost:", "localhost:http", "localhost:999999", "localhost/", "localhost, evil.com",
        "http://localhost", "[localhost]", "loc\u200balhost", "xn--localhost",
    ],
)  # fmt: skip
def test_without_a_token_other_names_are_refused(port, host):
    assert status_of(port, b"Host: " + host.encode()) in (400, 421)


@pytest.mark.parametrize(
    "headers",
    [
        [], [b"Host: localhost", b"Host: evil.com"], [b"Host: localhost", b"Host: localhost"],
        [b"X-Forwarded-Host: localhost"], [b"Host: evil.com", b"X-Forwarded-Host: localhost"],
        [b"Host: evil.com", b"Forwarded: host=localhost"], [b"Host: localhost", b"Origin: http://evil.com"],
        [b"Host: localhost", b"Origin: null"], [b"Host: localhost:1", b"Origin: http://localhost:2"],
        [b"Host: localhost", b"Origin: file://localhost"],
    ],
)  # fmt: skip
@pytest.mark.parametrize("version", [b"HTTP/1.1", b"HTTP/1.0"])
def test_without_a_token_requests_of_strangers_are_refused(port, headers, version):
    assert status_of(port, *headers, version=version) in (400, 421)


@pytest.mark.parametrize(
    "target", [b"http://evil.com/facts", b"//evil.com/facts", b"http://localhost/facts", b"evil.com:80"]
)
def test_a_host_in_the_target_is_not_served(port, target):
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(65536).split(b" ")[1] in (b"400", b"404")


@pytest.mark.parametrize("options", [ServeOptions(token=TOKEN), ServeOptions(allow_anyone=True)])
def test_with_a_token_or_if_everyone_may_ask_the_host_is_any(options):
    with http_server_for(answer, options) as (port, _):
        assert status_of(port, b"Host: models.example.com", b"Origin: https://models.example.com") == 200


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=a",
        "text/json",
        "*/*",
        "application",
    ],
)
def test_what_a_page_can_send_unasked_is_refused(port, content_type):
    headers = {"Content-Type": content_type} if content_type else {}
    answer = httpx.post(f"http://127.0.0.1:{port}/predict", content=b'{"texts": ["a"]}', headers=headers)
    assert answer.status_code == 415
    assert "Content-Type: application/json" in answer.json()["detail"]
