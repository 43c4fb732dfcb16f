"""Credentials in URLs open the URLs and appear in no error, log, config or file.

Oracles: a real web server that demands them, and a search for them in everything that was written.
"""

import base64
import http.server
import json
import logging
import os
import pickle
import re
import subprocess
import sys
import threading
from functools import partial
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cxml import storage, urls
from cxml.config import Config, DataConfig, SourceConfig, config_from_dict, config_to_dict
from cxml.console import set_up_logging
from cxml.errors import ConfigError, CxmlError, DataError, StorageError

USER, PASSWORD, TOKEN = "reader", "hunter2hunter2", "sig-abcdef123456"

SECRET = [
    ("ftp://user:pass@host/x", "ftp://***@host/x"),
    ("FTP://user:pass@host/x", "FTP://***@host/x"),
    ("ftp://user:p@ss@host/x", "ftp://***@host/x"),
    ("ftp://user:pa:ss@host:21/x", "ftp://***@host:21/x"),
    ("sftp://:pass@host/x", "sftp://***@host/x"),
    ("s3://AKIA123:ab/cd+ef=@bucket/x", "s3://***@bucket/x"),
    ("https://ghp_token@host/x", "https://***@host/x"),
    ("https://user:p%40ss@host/x?sig=a%2Fb&se=2", "https://***@host/x?***"),
    ("http://host:8080/x?token=abc", "http://host:8080/x?***"),
    ("https://host/x?abc", "https://host/x?***"),
    ("https://host/x#access_token=abc", "https://host/x?***"),
    ("https://b.s3.amazonaws.com/k?X-Amz-Credential=A&X-Amz-Signature=b", "https://b.s3.amazonaws.com/k?***"),
    ("abfs://container@account.dfs.core.windows.net/x?sig=abc", "abfs://container@account.dfs.core.windows.net/x?sig=***"),
    ("az://container/x?sv=1&sig=abc", "az://container/x?sv=1&sig=***"),
    ("s3://bucket/x?X-Amz-Security-Token=abc&versionId=3", "s3://bucket/x?X-Amz-Security-Token=***&versionId=3"),
    ("zip://a/b::https://u:p@h/x.zip?sig=q", "zip://a/b::https://***@h/x.zip?***"),
    ("simplecache::ftp://u:p@h/x", "simplecache::ftp://***@h/x"),
    ("webhdfs://u:p@h:9870/x?delegation_token=abc", "webhdfs://***@h:9870/x?delegation_token=***"),
]  # fmt: skip
PLAIN = [
    "/tmp/a@b:c", "runs/u:p@h", "s3://bucket/a@b", "s3://bucket/a:b@c/d", "memory://a@b/c", "file:///tmp/a@b",
    "http://host:8080/a@b", "abfs://container@account.dfs.core.windows.net/x", "https://host/x", "zip://a@b::/tmp/x.zip",
    "a?b=c", "pip:encoder", "s3://bucket/what?/x", "(.+)", "owner/name",
]  # fmt: skip


@pytest.mark.parametrize(("url", "shown"), SECRET)
def test_credentials_are_masked_wherever_a_url_stands(url, shown):
    for before, after in (("", ""), ("see ", " there"), ("'", "'"), ('"', '",'), ("(", ")"), ("[", "]"), ("", ": no")):
        assert urls.masked(f"{before}{url}{after}") == f"{before}{shown}{after}"
    assert urls.masked(f"{url} and {url}") == f"{shown} and {shown}"
    assert urls.masked(shown) == shown


@pytest.mark.parametrize("secret", ['abcd"efgh', "abcd'efgh", "abcd>efgh", "abcd efgh"])
def test_a_secret_of_a_known_url_is_masked_to_its_end_whatever_it_holds(secret):
    url = f"https://host.example/x?sig={secret}&se=1"
    urls.remember_credentials(url)
    assert urls.masked(f"cannot open {url}: gone") == "cannot open https://host.example/x?***: gone"


# Passwords with characters that a URL has to escape. The `#`, `/` and `?` end the host for libraries.
ODD_PASSWORDS = [
    "hunter two two", "hun ter/two?four#six", "hunter@two three", "hunter: two", "1234 hunter",
    "hunter'two\"three four", "hunter://two three", "hünter zwei", "hunter\ttwo three", "hunter<two> three",
]  # fmt: skip


@pytest.mark.parametrize("password", ODD_PASSWORDS)
def test_a_password_that_is_not_safe_in_a_url_is_masked_in_what_a_config_and_its_errors_show(password):
    url = f"ftp://reader:{password}@host.example/x"
    config = config_from_dict({"output": "runs/x", "data": {"source": {"path": url}}})
    assert config_to_dict(config)["data"]["source"]["path"] == "ftp://***@host.example/x"
    with pytest.raises(ConfigError) as failure:
        config_from_dict({"output": "runs/x", "data": {"source": {"path": url}, "max_length": url}})
    library = ValueError(f"no host in {url!r}, {json.dumps(url)} or {quote(url, safe=':/@')}")
    for text in (str(failure.value), repr(failure.value), str(DataError(url, str(library), "Mend it."))):
        assert "***@host.example/x" in text
        assert "hunter" not in text.replace("***", "")
        assert "hünter" not in text
        assert quote(password) not in text
    assert urls.unmasked("ftp://***@host.example/y") == f"ftp://reader:{password}@host.example/y"


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=6))
def test_no_password_of_a_known_url_is_shown(password):
    url, shown = f"sftp://reader:{password}@host.example/x", "sftp://***@host.example/x"
    assume(not re.match(r"\d+(?:[/?#]|$)", password))  # a port
    urls.remember_credentials(url)
    for sentence in ("{}", "no {}: gone", "({})"):
        assert urls.masked(sentence.format(url)) == sentence.format(shown)
    assert urls.masked(repr(url))[1:-1] == shown


def test_a_masked_url_is_not_taken_for_a_user():
    urls.remember_credentials("ftp://reader:hunter2@known.example/x")
    urls.remember_credentials("ftp://***@known.example/y")
    assert urls.unmasked("ftp://***@known.example/y") == "ftp://reader:hunter2@known.example/y"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("open ftp://u:p w@host/x: no", "open ftp://***@host/x: no"),
        ("'ftp://u:p w@host/x'", "'ftp://***@host/x'"),
        ("see ftp://host:21 and ask a@b.example", "see ftp://host:21 and ask a@b.example"),
        ("no answer from http://host: ask a@b.example", "no answer from http://host: ask a@b.example"),
        ('{"x": "http://host:80", "y": "a@b"}', '{"x": "http://host:80", "y": "a@b"}'),
        ("ftp://u:p w@host/x, ask a@b.example", "ftp://***@host/x, ask a@b.example"),
    ],
)
def test_a_password_with_spaces_of_an_unknown_url_is_masked_and_other_sentences_stay(text, shown):
    assert urls.masked(text) == shown


@pytest.mark.parametrize("url", PLAIN)
def test_what_is_no_secret_stays(url):
    assert urls.masked(url) == url


@pytest.mark.parametrize(("url", "shown"), SECRET)
def test_no_error_shows_them(url, shown):
    errors = [
        ConfigError("data.source.path", url, "is wrong", "Mend it."), DataError(url, f"{url} is wrong", url, line=1),
        StorageError(f"{url}: away"), CxmlError(url),
    ]  # fmt: skip
    for error in errors:
        assert url not in str(error)
        assert url not in repr(error)
        assert shown in str(error)
        assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize(("url", "shown"), SECRET)
def test_a_config_is_dumped_without_them_and_keeps_them(url, shown):
    config = Config(output=url, data=DataConfig(source=SourceConfig(path=url), directory=url))
    dumped = config_to_dict(config)
    assert (dumped["output"], dumped["data"]["source"]["path"], dumped["data"]["directory"]) == (shown,) * 3
    assert config_from_dict(config_to_dict(config, with_credentials=True)) == config


@pytest.fixture
def web(tmp_path):
    """A web server of `tmp_path` that asks for a user and password, and a token; its address without them."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def send_head(self):
            wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
            token = parse_qs(urlsplit(self.path).query).get("token", [""])[0]
            if self.headers.get("Authorization") != wanted or not token.startswith("sig-"):
                self.send_error(403)
                return None
            return super().send_head()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def shows_no_secret(text):
    plain = re.sub(r"[│\s]", "", text)  # a secret may be broken into the lines of a box
    return not any(secret in shown for secret in (PASSWORD, TOKEN, "sig-rotated") for shown in (text, plain))


def test_a_url_with_credentials_opens(web, tmp_path):
    (tmp_path / "x.txt").write_text("content")
    url = f"http://{USER}:{PASSWORD}@{web}/x.txt?token={TOKEN}"
    assert storage.read_bytes(url) == b"content"
    with pytest.raises(OSError, match=r"\*\*\*") as failure:
        storage.read_bytes(f"http://{USER}:wrong-{PASSWORD}@{web}/x.txt?token={TOKEN}")
    assert shows_no_secret(str(failure.value))
    with pytest.raises(OSError, match=r"\*\*\*") as failure:
        storage.read_bytes(storage.join(url, "missing"))
    error = failure.value
    while error is not None:  # what a traceback would show
        assert shows_no_secret(str(error))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def test_a_masked_url_opens_with_the_user_that_this_process_knows(web, tmp_path):
    (tmp_path / "x.txt").write_text("content")
    urls.remember_credentials(f"http://{USER}:{PASSWORD}@{web}/y.txt")
    assert storage.read_bytes(f"http://***@{web}/x.txt?token={TOKEN}") == b"content"


def test_unmasking_puts_in_a_known_user_and_drops_what_is_not_known():
    assert urls.unmasked("ftp://***@nobody/x") == "ftp://nobody/x"
    urls.remember_credentials("ftp://u:p@somebody/x")
    assert urls.unmasked("ftp://***@somebody/y") == "ftp://u:p@somebody/y"
    assert urls.unmasked("https://host/x?***") == "https://host/x"


def test_the_errors_of_an_object_store_do_not_show_them():
    with pytest.raises(OSError, match=r"s3://\*\*\*@bucket") as failure:
        storage.read_bytes("s3://AKIA123456:topsecret/key@bucket/x")
    assert "topsecret" not in str(failure.value)


def test_the_log_and_uncaught_errors_do_not_show_them(capfd):
    url = f"ftp://{USER}:{PASSWORD}@host/x?token={TOKEN}"
    set_up_logging(is_main=True)
    log = logging.getLogger("cxml.test")
    log.info("Config: %s", url)
    try:
        int(url)
    except ValueError as error:
        log.exception("failed")
        sys.excepthook(type(error), error, error.__traceback__)
    shown = capfd.readouterr().err
    assert shown.count("ftp://***@host/x?token=***") == 3
    assert shows_no_secret(shown)


@pytest.fixture
def prepared(web, tmp_path):
    """Run `cxml.data_tools.prepare` on files of the web server."""
    rows = [json.dumps({"text": f"words of text {i}", "labels": [f"label {i % 3}"]}) for i in range(12)]
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(rows) + "\n")

    def run(*options, token=TOKEN, module="cxml.data_tools.prepare"):
        config = tmp_path / "config.yaml"
        source = {"kind": "jsonl", "path": f"http://{USER}:{PASSWORD}@{web}?token={token}"}
        data = {"source": source, "engine": "local"}
        config.write_text(json.dumps({"output": str(tmp_path / "out"), "data": data}))
        command = [sys.executable, "-m", module, "--config", str(config), *options]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "80"}, check=False)

    return run


def test_a_prepared_data_set_holds_no_secret_and_stays_when_the_token_changes(prepared, tmp_path):
    first = prepared()
    assert first.returncode == 0, first.stderr
    assert shows_no_secret(first.stdout + first.stderr)
    files = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert files
    assert not any(secret.encode() in file.read_bytes() for file in files for secret in (PASSWORD, TOKEN))
    second = prepared(token="sig-rotated")
    assert second.returncode == 0
    assert "Prepared data found" in second.stderr
    assert shows_no_secret(second.stdout + second.stderr)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--help"], 0), (["--data.no-such", f"http://{USER}:{PASSWORD}@h/x"], 2),
        (["--data.max-length", f"http://{USER}:{PASSWORD}@h/x"], 2), (["--output", f"nope://{USER}:{PASSWORD}@h/x"], 2),
        (["--data.source.path", f"http://{USER}:{PASSWORD}@127.0.0.1:1/x?token={TOKEN}"], 2),
        (["--data.source.path", f"ftp://{USER}:a b?{PASSWORD}#c@127.0.0.1:1/x"], 2),
        (["--data.max-length", f"ftp://{USER}:{'a ' * 60}{PASSWORD} {PASSWORD}{PASSWORD}@h/x"], 2),
        (["--data.no-such", f"ftp://{USER}:{PASSWORD * 9}@h/x"], 2),
    ],
)  # fmt: skip
def test_no_command_line_is_repeated_with_its_secrets(prepared, options, code):
    done = prepared(*options)
    assert done.returncode == code, done.stderr
    assert shows_no_secret(done.stdout + done.stderr)


def test_a_printed_config_shows_none(prepared):
    done = prepared("--print-config", module="cxml.train")
    assert done.returncode == 0
    assert "***@127.0.0.1" in done.stdout
    assert shows_no_secret(done.stdout + done.stderr)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("runs/quickstart", "quickstart"), ("/home/ada/secret/run 1/", "run 1"), (".hidden", "hidden"),
        ("s3://key:word@bucket/a/model", "model"), ("https://host/a/wordnet?X-Amz-Signature=abc#d", "wordnet"),
        ("s3://bucket/a/model?versionId=abc", "model"), ("simplecache::s3://key:word@bucket/a/model", "model"),
        ("zip://a/inner::https://user:word@host/b.zip?token=c", "inner"), ("memory://a/b", "b"), ("memory://b", "b"),
        ("s3://key:word@bucket", ""), ("s3://key:wo/rd@bucket", ""), ("https://host?token=a/b", ""),
        (".", ""), ("/", ""), ("..", ""),
    ],
)  # fmt: skip
def test_the_name_of_a_url_has_no_folder_no_host_and_no_secret(url, name):
    assert urls.name_of(url) == name
