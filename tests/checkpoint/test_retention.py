"""Listing, retention and sweeping of checkpoints.

Properties: only committed checkpoints are listed, newest first; retention keeps the newest, the periodic and the best
ones; an interrupted save or deletion leaves only what a sweep removes. Oracles: hand-computed cases and set arithmetic.
"""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxml import storage
from cxml.checkpoint.manifest import Commit, Manifest, RunState
from cxml.checkpoint.retention import (
    Entry,
    best_checkpoint,
    delete,
    kept_checkpoints,
    list_checkpoints,
    new_folder,
    retain,
    sweep,
)
from cxml.config import CheckpointConfig
from cxml.errors import ConfigError


def run_state(step, metrics=None):
    return RunState(
        step=step, world_size=1, config={}, encoder={}, tree="", loader={}, optimizer_step=step, num_labels=1, width=1,
        label_head="rows", metrics=metrics or {},
    )  # fmt: skip


def commit(step, metrics=None):
    return Commit.of(Manifest(run=run_state(step, metrics), tensors={}, files=()), "2026-01-01T00:00:00+00:00")


def put(folder, step, metrics=None):
    place = Path(new_folder(str(folder), step))
    place.mkdir(parents=True)
    (place / "commit.json").write_bytes(commit(step, metrics).encode())
    return place


def begin(folder, step):
    place = Path(new_folder(str(folder), step))
    place.mkdir(parents=True)
    (place / "model-00000-00000.safetensors").write_bytes(b"half of it")
    return place


def steps(folder):
    return [entry.step for entry in list_checkpoints(str(folder))]


def test_committed_checkpoints_are_listed_newest_first(tmp_path):
    for step in (5, 100, 20):
        put(tmp_path, step)
    begin(tmp_path, 120)
    (tmp_path / "notes").mkdir()
    assert steps(tmp_path) == [100, 20, 5]


def test_a_missing_folder_holds_no_checkpoint_and_nothing_to_sweep(tmp_path):
    assert list_checkpoints(str(tmp_path / "none")) == []
    assert sweep(str(tmp_path / "none")) == []


def test_two_saves_of_one_step_never_share_a_folder(tmp_path):
    assert new_folder(str(tmp_path), 5) != new_folder(str(tmp_path), 5)


def test_sweeping_deletes_what_interrupted_saves_left_and_nothing_else(tmp_path):
    whole, half, notes = put(tmp_path, 5), begin(tmp_path, 10), tmp_path / "notes"
    notes.mkdir()
    assert sweep(str(tmp_path)) == [str(half)]
    assert whole.exists()
    assert notes.exists()
    assert not half.exists()


def test_an_interrupted_deletion_leaves_no_checkpoint_and_a_folder_to_sweep(tmp_path, monkeypatch):
    place = put(tmp_path, 5)
    (place / "model-00000-00000.safetensors").write_bytes(b"data")
    remove = storage.remove

    def remove_the_commit_only(url, **options):
        if not url.endswith("commit.json"):
            raise KeyboardInterrupt
        remove(url, **options)

    with monkeypatch.context() as patch:
        patch.setattr("cxml.checkpoint.retention.storage.remove", remove_the_commit_only)
        with pytest.raises(KeyboardInterrupt):
            delete(Entry(str(place), 5, None))
    assert steps(tmp_path) == []
    assert sweep(str(tmp_path)) == [str(place)]
    assert not place.exists()


def test_retention_keeps_the_last_one_of_every_so_many_steps_and_the_best(tmp_path):
    losses = {10: 5.0, 20: 1.0, 30: 4.0, 40: 3.0, 50: 2.0, 60: 9.0}
    for step, loss in losses.items():
        put(tmp_path, step, {"loss": loss})
    half = begin(tmp_path, 70)
    retain(str(tmp_path), CheckpointConfig(keep_last=1, keep_every_steps=25, keep_best=2))
    assert steps(tmp_path) == [60, 50, 30, 20]  # last; first from 50 on; first from 25 on; best two: 20 and 50
    assert half.exists()


def test_a_metric_other_than_the_loss_is_better_when_higher(tmp_path):
    for step, value in {10: 40.0, 20: 60.0, 30: 50.0}.items():
        put(tmp_path, step, {"P@1": value})
    retain(str(tmp_path), CheckpointConfig(keep_last=1, keep_best=1, best_metric="P@1"))
    assert steps(tmp_path) == [30, 20]


def test_a_checkpoint_whose_commit_is_damaged_is_listed_without_it_and_never_deleted(tmp_path):
    place = put(tmp_path, 5)
    (place / "commit.json").write_text("{")
    put(tmp_path, 10)
    put(tmp_path, 20)
    retain(str(tmp_path), CheckpointConfig(keep_last=1))
    assert [(entry.step, entry.commit is None) for entry in list_checkpoints(str(tmp_path))] == [(20, False), (5, True)]


@given(
    st.lists(st.integers(1, 200), unique=True, max_size=20), st.integers(1, 4), st.integers(0, 50), st.integers(0, 3)
)
def test_whatever_the_settings_the_newest_stay_and_order_is_kept(found, keep_last, every, best):
    entries = [Entry(f"at {s}", s, commit(s, {"loss": (s * 37) % 101})) for s in sorted(found, reverse=True)]
    kept = kept_checkpoints(entries, CheckpointConfig(keep_last=keep_last, keep_every_steps=every, keep_best=best))
    assert kept[:keep_last] == entries[:keep_last]
    assert [entry.step for entry in kept] == sorted((entry.step for entry in kept), reverse=True)
    periods = {entry.step // every for entry in entries} - {0} if every else set()
    assert {entry.step // every for entry in kept} - {0} >= periods if every else True
    assert len(kept) <= keep_last + len(periods) + best


def test_keeping_none_is_refused():
    with pytest.raises(ConfigError, match="keep_last"):
        CheckpointConfig(keep_last=0)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=20), st.integers(1, 3))
def test_the_best_checkpoint_that_a_kept_checkpoint_names_is_kept(values, keep_last):
    bests = [10 * (1 + values.index(max(values[: i + 1]))) for i in range(len(values))]
    entries = [
        Entry(f"at {step}", step, dataclasses.replace(commit(step), best_step=best))
        for step, best in zip(range(10, 10 * len(values) + 1, 10), bests, strict=True)
    ][::-1]  # fmt: skip
    kept = kept_checkpoints(entries, CheckpointConfig(keep_last=keep_last))
    assert {bests[entry.step // 10 - 1] for entry in kept} <= {entry.step for entry in kept}
    assert len(kept) <= 2 * keep_last
    assert best_checkpoint(kept, bests[-1]) == entries[len(values) - bests[-1] // 10]
