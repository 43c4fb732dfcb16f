"""Addresses that a server listens on: ports that are not ports, taken ports, and addresses of other machines."""

import contextlib

import pytest

from cxml.errors import ConfigError
from cxml.serving.addresses import bind, listen


@pytest.mark.parametrize("port", [-1, 65536, 99999])
def test_a_number_that_is_not_a_port_is_refused(port):
    with pytest.raises(ConfigError, match=rf"--port = {port}: is not a port.*65535"):
        bind("127.0.0.1", port)


def test_an_address_of_another_machine_is_refused_by_its_name():
    with pytest.raises(ConfigError, match=r"--host = '192\.0\.2\.1': is not an address of this machine"):
        bind("192.0.2.1", 0)


def test_of_two_servers_that_start_at_once_the_second_is_told_that_the_port_is_taken():
    first = bind("127.0.0.1", 0)
    port = first[0].getsockname()[1]
    with contextlib.ExitStack() as stack:
        for one in first:
            stack.enter_context(one)
        second = bind("127.0.0.1", port)
        listen(first)
        with pytest.raises(ConfigError, match=rf"--port = {port}: cannot listen on it.*Choose another port"):
            listen(second)
        assert all(one.fileno() == -1 for one in second)
