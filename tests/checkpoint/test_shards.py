"""Checkpoint shards: any partition of a tensor reads back bit for bit; damaged and hostile files are refused by name.

Oracles: the tensors that were written, and hypothesis for partitions and for changes of the manifest.
"""

import contextlib
import copy
import dataclasses
import hashlib
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.state_dict_saver import save

from cxml.checkpoint import ShardReader, pieces
from cxml.checkpoint.manifest import Commit, Manifest, RunState
from cxml.checkpoint.pieces import Pieces, SavePlanner, balanced_owners
from cxml.checkpoint.shards import ShardWriter
from cxml.checkpoint.training_state import load_pieces
from cxml.errors import CxmlError, DataError

RUN = RunState(
    step=7, world_size=1, config={"a": [1]}, encoder={}, tree="t", loader={"epoch": 0}, optimizer_step=7, num_labels=9,
    width=2, label_head="rows", row_schedule={"lr": 0.1}, metrics={"loss": 1.5},
)  # fmt: skip
TENSORS = {
    "model/a": torch.arange(37, dtype=torch.float32),
    "model/b": torch.arange(5, dtype=torch.bfloat16),
    "optimizer/exp_avg/a": torch.arange(37, dtype=torch.float32) * 2,
    "run/random/00000": torch.arange(200, dtype=torch.uint8),
    "labels/00000/00000/weight": torch.arange(40, dtype=torch.int32).to(torch.uint16),
}


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A checkpoint of small pieces, at a path."""
    monkeypatch.setattr(pieces, "PIECE_BYTES", 32)
    url = tmp_path / "step-00000007-00000000"
    write(url)
    return url


def write(url):
    whole = {name: Pieces.whole(tensor) for name, tensor in TENSORS.items()}
    save(whole, storage_writer=ShardWriter(str(url), 0, RUN), planner=SavePlanner(), no_dist=True)


def commit_anew(url, manifest_text):
    """Replace the manifest, with a commit that fits, as someone who means harm would."""
    content = manifest_text.encode()
    (url / "manifest.json").write_bytes(content)
    commit = json.loads((url / "commit.json").read_text())
    commit |= {"manifest_bytes": len(content), "manifest_sha256": hashlib.sha256(content).hexdigest()}
    (url / "commit.json").write_text(json.dumps(commit))


def test_what_is_written_is_read_bit_by_bit(saved):
    reader = ShardReader(str(saved))
    assert reader.manifest.run == RUN
    for name, tensor in TENSORS.items():
        assert torch.equal(reader.tensor(name), tensor), name
        assert [start for start, _ in reader.pieces(name)] == list(range(0, len(tensor), 32 // tensor.itemsize))


@given(st.lists(st.integers(0, 37), min_size=1, max_size=6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_cut_can_be_filled_from_any_other(saved, cuts):
    bounds = sorted({0, 37, *cuts})
    target = torch.full((37,), -1.0)
    parts = {a: target[a:b] for a, b in itertools.pairwise(bounds)}
    load_pieces(ShardReader(str(saved)), {"model/a": Pieces(37, parts)})
    assert torch.equal(target, TENSORS["model/a"])


def test_a_part_is_filled_without_touching_the_rest(saved):
    target = torch.full((6,), -1.0)
    load_pieces(ShardReader(str(saved)), {"model/a": Pieces(37, {11: target[1:4]})})
    assert target.tolist() == [-1, 11, 12, 13, -1, -1]


def test_who_reads_weights_reads_no_optimiser_state(saved):
    for file in saved.glob("optimizer-*"):
        file.unlink()
    reader = ShardReader(str(saved))
    assert torch.equal(reader.tensor("model/a"), TENSORS["model/a"])
    with pytest.raises(DataError, match=r"optimizer-00000-\d+\.safetensors.*is listed in the manifest but missing"):
        reader.tensor("optimizer/exp_avg/a")


def test_a_missing_tensor_and_one_of_another_size_are_named(saved):
    reader = ShardReader(str(saved))
    with pytest.raises(DataError, match="does not contain model/z"):
        load_pieces(reader, {"model/z": Pieces.whole(torch.zeros(3))})
    with pytest.raises(DataError, match="model/a with 37 elements, expected 38"):
        load_pieces(reader, {"model/a": Pieces.whole(torch.zeros(38))})


@pytest.mark.parametrize("kind", ["model", "optimizer", "labels", "run"])
@pytest.mark.parametrize("damage", ["truncated", "a flipped bit", "emptied", "missing"])
def test_a_damaged_file_is_named(saved, kind, damage):
    file = next(saved.glob(f"{kind}-*"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    changed = {"truncated": content[:-3], "a flipped bit": content, "emptied": b"", "missing": None}[damage]
    file.unlink() if changed is None else file.write_bytes(changed)
    reader = ShardReader(str(saved))
    with pytest.raises(DataError, match=file.name):
        [reader.tensor(name) for name in TENSORS]


@pytest.mark.parametrize("name", ["manifest.json", "commit.json"])
@pytest.mark.parametrize("at", [0, 40, -2])
def test_a_damaged_manifest_or_commit_is_refused(saved, name, at):
    content = bytearray((saved / name).read_bytes())
    content[at] = ord("~")
    (saved / name).write_bytes(content)
    with pytest.raises(DataError, match=r"\.json"):
        ShardReader(str(saved))


def test_without_a_commit_there_is_no_checkpoint(saved):
    (saved / "commit.json").unlink()
    with pytest.raises(DataError, match="no complete checkpoint"):
        ShardReader(str(saved))


def test_a_second_commit_of_another_content_loses(saved):
    from cxml import storage

    with pytest.raises(FileExistsError):
        storage.create(str(saved / "commit.json"), b"another")
    storage.create(str(saved / "commit.json"), (saved / "commit.json").read_bytes())  # its own, repeated, is no loss


def manifest_of(saved):
    return json.loads((saved / "manifest.json").read_text())


HOSTILE = {
    "a path that leads out": lambda m: m["files"][0].update(file="../../etc/passwd"),
    "an absolute path": lambda m: m["files"][0].update(file="/etc/passwd"),
    "a URL": lambda m: m["files"][0].update(file="http://127.0.0.1/x-00000-00000.safetensors"),
    "a huge file": lambda m: m["files"][0].update(bytes=1 << 60),
    "a huge tensor": lambda m: m["tensors"]["model/a"].update(numel=1 << 62, pieces=[[0, 1 << 62, 0]]),
    "a tensor larger than its file": lambda m: m["tensors"]["model/a"].update(numel=1 << 30, pieces=[[0, 1 << 30, 0]]),
    "a negative size": lambda m: m["tensors"]["model/a"].update(numel=-1),
    "an object as type": lambda m: m["tensors"]["model/a"].update(dtype="object"),
    "an attribute of torch as type": lambda m: m["tensors"]["model/a"].update(dtype="_C"),
    "another type": lambda m: m["tensors"]["model/a"].update(dtype="float64"),
    "a file that is none": lambda m: m["tensors"]["model/a"].update(pieces=[[0, 37, 99]]),
    "a negative file": lambda m: m["tensors"]["model/a"].update(pieces=[[0, 37, -1]]),
    "overlapping pieces": lambda m: m["tensors"]["model/a"].update(pieces=[[0, 20, 0], [10, 27, 0]]),
    "gaps": lambda m: m["tensors"]["model/a"].update(pieces=[[0, 20, 0], [21, 16, 0]]),
    "an unknown field": lambda m: m.update(extra=1),
    "a missing field": lambda m: m["run"].pop("tree"),
    "a later version": lambda m: m.update(version=2),
    "no ranks": lambda m: m["run"].update(world_size=0),
    "a step that is text": lambda m: m["run"].update(step="7"),
    "an unknown head": lambda m: m["run"].update(label_head="pickle"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_manifest_is_refused_before_anything_is_allocated(saved, name):
    manifest = manifest_of(saved)
    HOSTILE[name](manifest)
    commit_anew(saved, json.dumps(manifest))
    with pytest.raises(DataError):
        ShardReader(str(saved)).tensor("model/a")


@pytest.mark.parametrize("text", ["[" * 100_000, "{}", "null", "NaN"])
def test_a_manifest_that_is_no_manifest_is_refused(saved, text):
    commit_anew(saved, text)
    with pytest.raises(DataError):
        ShardReader(str(saved))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value, path=()):
    """Every place in a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
def test_whatever_stands_in_a_manifest_it_is_read_right_or_refused(saved, data):
    manifest = json.loads(json.dumps(manifest_of_fixture(saved)))
    for _ in range(data.draw(st.integers(1, 3))):
        *path, last = data.draw(st.sampled_from([place for place in places(manifest) if place]))
        target = manifest
        for key in path:
            target = target[key]
        if data.draw(st.booleans()):
            target[last] = data.draw(JSON)
        else:
            del target[last]
    commit_anew(saved, json.dumps(manifest))
    with contextlib.suppress(CxmlError):  # refused; what is not, is read right
        reader = ShardReader(str(saved))
        for name in reader.manifest.tensors:
            tensor = reader.tensor(name)
            if name in TENSORS:
                assert torch.equal(tensor, TENSORS[name])


_ORIGINALS: dict[Path, dict] = {}


def manifest_of_fixture(saved):
    """The manifest as it was first written."""
    if saved not in _ORIGINALS:
        _ORIGINALS[saved] = manifest_of(saved)
    return copy.deepcopy(_ORIGINALS[saved])


@given(st.lists(st.integers(1, 1000), max_size=40), st.integers(1, 8))
def test_items_are_assigned_evenly_and_alike_on_every_rank(sizes, ranks):
    owners = balanced_owners(sizes, ranks)
    loads = np.bincount(owners, weights=sizes, minlength=ranks) if sizes else np.zeros(ranks)
    assert balanced_owners(iter(sizes), ranks) == owners
    assert loads.max() - loads.min() <= max(sizes, default=0)


def test_a_commit_round_trips():
    manifest = Manifest(run=RUN, tensors={}, files=())
    commit = Commit.of(manifest, "2026-01-01T00:00:00+00:00")
    assert Commit(**json.loads(commit.encode())) == commit
    assert dataclasses.asdict(manifest)["run"]["step"] == commit.step
