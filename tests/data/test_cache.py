"""The node's cache of remote shards: one download for all processes, a size limit, and no damaged file in it.

Oracles: the same data set read from its local folder, and the requests that a real web server counts.
"""

import multiprocessing
import os
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest

from cxml.data import DataManifest, ShardCache, ShardedDataset
from cxml.errors import ConfigError, DataError

pytest.importorskip("aiohttp")


class RangeHandler(SimpleHTTPRequestHandler):
    """Serves files with ranges, and counts what is asked for."""

    requests: list[str]

    def log_message(self, *_):
        pass

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        start, _, stop = self.headers.get("Range", f"bytes=0-{len(content) - 1}").removeprefix("bytes=").partition("-")
        part = content[int(start) : int(stop) + 1]
        self.server.asked.append(self.path)
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {start}-{int(start) + len(part) - 1}/{len(content)}")
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        self.wfile.write(part)


@pytest.fixture
def served(tmp_path, write_data):
    """A data set behind a web server: its URL, its folder, and the paths asked for so far."""
    folder = tmp_path / "served"
    write_data(str(folder), 60, shard_rows=10)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(RangeHandler, directory=str(folder)))
    server.asked = []
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder, server.asked
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CXML_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def shards(cache_folder):
    return sorted(path.name for path in cache_folder.glob("*.arrow"))


def test_remote_shards_read_as_local_ones_and_are_fetched_once(served, cache_folder):
    url, folder, asked = served
    local, remote = (ShardedDataset(place, "train") for place in (str(folder), url))
    rows = np.array([59, 0, 31])
    assert remote.texts(rows) == local.texts(rows)
    assert (remote.gather(rows)[0].values == local.gather(rows)[0].values).all()
    assert len(shards(cache_folder)) == 6
    before = len(asked)
    ShardedDataset(url, "train")
    assert [path for path in asked[before:] if path.endswith(".arrow")] == []


def open_in_a_process(url):
    return len(ShardedDataset(url, "train"))


def test_many_processes_at_once_fetch_each_shard_once(served, cache_folder):
    url, _, asked = served
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert pool.map(open_in_a_process, [url] * 6) == [60] * 6
    fetched = [path for path in asked if path.endswith(".arrow")]
    assert len(fetched) == len(set(fetched)) == 6
    assert not list(cache_folder.glob("*.part"))


def test_the_least_recently_opened_go_first_and_mapped_ones_stay_readable(tmp_path, write_data, cache_folder):
    store = fsspec.filesystem("memory")
    urls = [f"memory://cache-test-{i}" for i in range(3)]
    for seed, url in enumerate(urls):
        write_data(url, 20, shard_rows=20, seed=seed)
    manifests = [DataManifest.read(url) for url in urls]
    (one,), (two,), (three,) = (manifest.splits["train"] for manifest in manifests)
    cache = ShardCache(cache_folder, one.bytes + two.bytes + three.bytes - 1)
    kept_open = np.memmap(cache.fetch(urls[0], [one])[0], mode="r")
    cache.fetch(urls[1], [two])
    os.utime(cache_folder / f"{one.sha256}.lock", (1, 1))  # long ago
    cache.fetch(urls[2], [three])
    assert shards(cache_folder) == sorted(f"{shard.sha256}.arrow" for shard in (two, three))
    assert bytes(kept_open) == store.cat_file(f"/cache-test-0/{one.file}")


def test_a_data_set_larger_than_the_bound_is_refused_with_the_variable_to_raise(served, cache_folder, monkeypatch):
    monkeypatch.setenv("CXML_CACHE_GIB", "0.000001")
    with pytest.raises(ConfigError, match=r"CXML_CACHE_GIB.*Increase it"):
        ShardedDataset(served[0], "train")


@pytest.mark.parametrize("value", ["much", "-1", "0", "nan"])
def test_a_bound_that_is_no_number_is_refused(served, cache_folder, monkeypatch, value):
    monkeypatch.setenv("CXML_CACHE_GIB", value)
    with pytest.raises(ConfigError, match="CXML_CACHE_GIB"):
        ShardedDataset(served[0], "train")


@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: b"X" + content[1:]])
def test_a_damaged_remote_shard_is_named_and_not_kept(served, cache_folder, damage):
    url, folder, _ = served
    shard = folder / "train/shard-00002.arrow"
    shard.write_bytes(damage(shard.read_bytes()))
    with pytest.raises(DataError, match=r"shard-00002\.arrow: its checksum differs from the manifest"):
        ShardedDataset(url, "train")
    sha256 = DataManifest.read(str(folder)).splits["train"][2].sha256
    assert f"{sha256}.arrow" not in shards(cache_folder)
    assert not list(cache_folder.glob("*.part"))


def test_a_missing_remote_shard_is_named(served, cache_folder):
    url, folder, _ = served
    (folder / "train/shard-00004.arrow").unlink()
    with pytest.raises(DataError, match=r"shard-00004\.arrow: is listed in the manifest but missing"):
        ShardedDataset(url, "train")


def test_a_cached_file_cut_off_by_a_crash_is_fetched_again(served, cache_folder):
    url, _, asked = served
    ShardedDataset(url, "train")
    victim = cache_folder / shards(cache_folder)[0]
    victim.write_bytes(victim.read_bytes()[:100])
    before = len(asked)
    assert len(ShardedDataset(url, "train")) == 60
    assert len([path for path in asked[before:] if path.endswith(".arrow")]) == 1
