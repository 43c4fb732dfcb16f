"""The server is told to end at a bad time."""

import re
from concurrent.futures import ThreadPoolExecutor

import httpx
from support.launching import wait_until
from support.served import TOKEN, is_listening, served


def test_told_to_end_while_the_model_loads_it_ends_with_code_0_and_leaves_nothing(output, tmp_path):
    with served(output, tmp_path / "log.txt", until=is_listening):
        pass
    assert "Traceback" not in (tmp_path / "log.txt").read_text()


def test_told_to_end_it_answers_what_it_has_accepted(output, tmp_path):
    texts = ["fever " * 3000] * 64

    def ask(address):
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return httpx.post(f"{address}/predict", json={"texts": texts}, headers=headers, timeout=120).status_code

    def num_accepted(address):
        return float(re.search(r"^cxml_texts_total (.*)$", httpx.get(f"{address}/metrics").text, re.MULTILINE)[1])

    with ThreadPoolExecutor(4) as pool:
        with served(output, tmp_path / "log.txt") as address:
            asked = [pool.submit(ask, address) for _ in range(4)]
            wait_until(lambda: num_accepted(address) == 4 * len(texts), "the requests do not arrive")
        assert [one.result() for one in asked] == [200] * 4
    assert "Traceback" not in (tmp_path / "log.txt").read_text()
