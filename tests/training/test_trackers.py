"""The JSON-lines and TensorBoard trackers write every record, and a damaged line ends the records that a resume keeps.

Oracles: hand-written records, and TensorBoard's own reader.
"""

import dataclasses
import json

import pytest

from cxml.training.loop import StepReport
from cxml.training.trackers import JsonlTracker, TensorBoardTracker

REPORT = StepReport(
    step=20,
    total_steps=80,
    epoch=0.5,
    level_losses=(0.5, 0.25),
    lr_factor=1.0,
    samples_per_second=100.0,
    tokens_per_second=2000.0,
    padding=0.25,
    data_wait=0.01,
    memory_gib=1.5,
    seconds=10.0,
)


def test_the_estimate_of_the_time_left_is_that_of_the_mean_speed():
    assert REPORT.seconds_left == 30.0


def test_records_go_to_a_local_file_at_once(tmp_path):
    file = tmp_path / "run" / "metrics.jsonl"
    tracker = JsonlTracker(str(file))
    tracker.on_record(REPORT)
    record = json.loads(file.read_text())
    assert record["loss"] == 0.75
    assert record["level_losses"] == [0.5, 0.25]


def test_a_record_leaves_out_what_the_machine_does_not_know(tmp_path):
    JsonlTracker(str(tmp_path / "a")).on_record(REPORT)
    known = {"device_memory_gib": 2.0, "device_peak_gib": 3.0, "gradient_norm": 0.5, "flop_utilisation": 0.25}
    JsonlTracker(str(tmp_path / "b")).on_record(dataclasses.replace(REPORT, **known, skipped_steps=2))
    without, with_them = (json.loads((tmp_path / name).read_text()) for name in "ab")
    assert with_them == without | known | {"skipped_steps": 2}
    assert without["padding"] == 0.25


def test_records_go_whole_to_where_they_cannot_be_appended():
    from cxml import storage

    url = "memory://run/metrics.jsonl"
    tracker = JsonlTracker(url)
    for epoch in (1, 2):
        tracker.on_record(REPORT)
        tracker.on_epoch_end(epoch)
        assert len(storage.read_bytes(url).splitlines()) == epoch
    storage.remove("memory://run")


def test_tensorboard_reads_back_the_scalars(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = TensorBoardTracker(str(tmp_path))
    tracker.on_record(REPORT)
    tracker.on_end()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert {"loss", "loss/level_0", "loss/level_1", "data_wait"} <= set(events.Tags()["scalars"])
    assert events.Scalars("loss/level_1")[0].value == 0.25


DAMAGED = [
    b"\xff\xfe\n", b"[" * 100_000 + b"\n", b'{"step": ' + b"9" * 5000 + b"}\n", b"[]\n", b"{}\n", b"\0" * 40 + b"\n",
    b'{"kind": "train", "step": "x"}\n', b'{"kind": {}, "step": 2}\n', b'{"kind": "evaluate", "epoch": null}\n',
    b'{"ki',
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(DAMAGED)))
def test_a_run_goes_on_with_the_records_before_a_damaged_line(tmp_path, number):
    file = tmp_path / "metrics.jsonl"
    sound = b'{"kind": "train", "step": 1, "epoch": 0.5}\n{"kind": "evaluate", "epoch": 1, "levels": []}\n'
    file.write_bytes(sound + DAMAGED[number] + sound)
    JsonlTracker(str(file), 9, 9)
    assert file.read_bytes() == sound
