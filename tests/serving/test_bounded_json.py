"""The reader of request bodies returns what Python's `json` returns, and refuses everything else with one error type.

Oracle: the standard library's `json` (hypothesis).
"""

import asyncio
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxml.serving.bounded_json import UnreadableError, read_object

SCALARS = st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS |= st.text(max_size=20)
REQUESTS = st.dictionaries(st.text(max_size=5), SCALARS | st.lists(SCALARS, max_size=5), max_size=4)


def read(body, most_values=64, most_bytes=300):
    return asyncio.run(read_object(body, most_values=most_values, most_bytes=most_bytes))


@given(REQUESTS, st.booleans(), st.sampled_from([None, 1, "\t"]))
@settings(max_examples=200, deadline=None)
def test_a_request_is_read_as_json_reads_it(request, is_ascii, indent):
    body = json.dumps(request, ensure_ascii=is_ascii, indent=indent).encode()
    assert read(body) == json.loads(body)


@given(REQUESTS, st.integers(0, 200), st.binary(max_size=3))
@settings(max_examples=300, deadline=None)
def test_bytes_in_the_wrong_place_change_nothing_or_are_refused(request, at, junk):
    body = json.dumps(request).encode()
    body = body[:at] + junk + body[at + 1 :]
    try:
        found = read(body)
    except UnreadableError:
        return
    assert found == json.loads(body)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"a": [[]]}', "nested values"), (b'{"a": {}}', "nested values"), (b'{"a":' * 100_000, "nested values"),
        (b'{"a": [' + b"1," * 100_000 + b"1]}", "more values"),
        (b"{" + b",".join(b'"%d": 1' % key for key in range(1000)) + b"}", "more values"),
        (b'{"a": "' + b"x" * 100_000 + b'"}', "longer"), (b'{"' + b"x" * 100_000 + b'": 1}', "longer"),
        (b'{"a": "' + b'\\"' * 100_000, "longer"), (b'{"a": ' + b"1" * 100_000 + b"}", "not valid"),
        (b'{"a": 1, "a": 2}', "twice"), (b'{"a": 1, "\\u0061": 2}', "twice"),
        (b'{"a": 1} {}', "one JSON object"), (b"", "one JSON object"), (b" " * 100_000, "one JSON object"),
        (b"[" * 100_000, "one JSON object"), (b"\xef\xbb\xbf{}", "one JSON object"),
        ('{"a": 1}'.encode("utf-16"), "one JSON object"), (b'{"a": "\xff"}', "not valid"),
        (b'{"a": "\\x"}', "not valid"), (b'{"a": "\n"}', "not valid"), (b'{"a": NaN}', "not valid"),
        (b'{"a": 01}', "not valid"), (b'{"a": +1}', "not valid"), (b'{"a": 1.}', "not valid"), (b"{1: 2}", "not valid"),
        (b'{"a": [1,]}', "not valid"), (b'{"a": 1,}', "not valid"), (b'{"a": tru}', "not valid"),
        (b'{"a"}', "not valid"), (b'{"a": "', "not valid"), (b'{"a": "\\', "not valid"), (b"{'a': 1}", "not valid"),
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused_without_its_content(body, reason):
    with pytest.raises(UnreadableError, match=reason) as caught:
        read(body)
    assert len(str(caught.value)) < 100


def test_other_tasks_run_while_a_large_request_is_read():
    body = json.dumps({"texts": ["x" * 20_000] * 64}).encode()
    turns = []

    async def others():
        while True:
            turns.append(1)
            await asyncio.sleep(0)

    async def both():
        task = asyncio.ensure_future(others())
        await read_object(body, most_values=100, most_bytes=300_000)
        task.cancel()

    asyncio.run(both())
    assert len(turns) >= 64
