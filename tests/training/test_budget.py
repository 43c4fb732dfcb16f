"""Trainings in a time budget: planned steps fit, and the schedule always runs to its end.

Oracles: the planned seconds added up step by step (hypothesis), and runs by a clock that the test moves.
"""

import dataclasses
import itertools
import json
import multiprocessing
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.checkpoints import checkpointed, model_tensors
from support.runs import FINGERPRINTS, make_encoder, prepare_with_tree, small_config
from support.small_runs import small_values, write_rows

from cxml import artefacts, pipeline
from cxml.checkpoint import list_checkpoints, read_checkpoint_manifest
from cxml.commands.train import main
from cxml.config import OptimConfig, config_from_dict, config_to_dict, parse_duration, with_values
from cxml.config_files import dump_config
from cxml.errors import ConfigError, StaleArtefactError
from cxml.optim import one_cycle
from cxml.parallel import run_here, run_workers
from cxml.pipeline.budget_clock import BudgetClock
from cxml.pipeline.resolved_config import resolved
from cxml.pipeline.time_budget import (
    Costs,
    budget_report,
    costly_sources,
    effect_of_more_time,
    make_step_budget,
    steps_within_budget,
)
from cxml.settings import write_budget
from cxml.settings.rules import BY_LENGTH
from cxml.stopping import OutOfTime, interrupting_after
from cxml.training import RunLength, Speed, TimeLimit, smoothed, steps_in_time, time_limit, train

SECONDS = st.floats(0.001, 100.0)


def simulated(steps, per_step, per_end, steps_per_epoch):
    """Seconds of a training, epoch by epoch."""
    return sum(per_step + (per_end if step % steps_per_epoch == 0 or step == steps else 0)
               for step in range(1, steps + 1))  # fmt: skip


@given(st.floats(10, 10_000), st.integers(1, 200), st.integers(1, 20), SECONDS, SECONDS, SECONDS, SECONDS, SECONDS)
def test_a_planned_run_ends_in_its_budget_and_one_epoch_end_more_would_not(
    budget, steps_per_epoch, epochs, per_step, per_end, job, start, after
):
    speed = Speed(steps_per_epoch, per_step, 0.0, 0.0)
    costs = Costs(job=job, start=start, epoch_end=per_end, after=after)
    most, used = epochs * steps_per_epoch, 0.1 * budget
    try:
        plan = steps_within_budget(budget, used, speed, costs, most)
    except ConfigError:
        least = used + job + start + after + simulated(1, per_step, per_end, steps_per_epoch)
        assert least > 0.98 * budget - per_end
        return
    fixed = used + job + start + after
    assert 1 <= plan.steps <= most
    assert fixed + simulated(plan.steps, per_step, per_end, steps_per_epoch) <= budget
    if plan.steps < most:
        longer = plan.steps + 1 + int(2 * per_end / per_step)
        assert fixed + simulated(longer, per_step, per_end, steps_per_epoch) > 0.97 * budget
    assert plan.time_limit.most == most


def test_a_budget_that_leaves_no_time_says_how_much_is_needed():
    speed, costs = Speed(10, 1.0, 0.0, 0.0), Costs(job=5.0, start=0.0, epoch_end=0.0, after=20.0)
    with pytest.raises(ConfigError, match=r"train\.budget.*Give more than (\d+)s") as error:
        steps_within_budget(30.0, 10.0, speed, costs, 100)
    needed = float(str(error.value).split("Give more than ")[1].split("s")[0])
    assert needed == 37  # 10 used, 25 besides steps and 1 for a step, with a margin of 2 %
    assert steps_within_budget(needed, 10.0, speed, costs, 100).steps == 1


@given(st.integers(1, 5000), st.lists(st.floats(0.2, 3.0), max_size=20))
def test_the_schedule_rises_evenly_to_its_end_however_often_the_total_changes(planned, factors):
    run_length = RunLength.of(planned)
    for factor in factors:
        step = run_length.next_adjustment
        if step >= run_length.total:
            break
        run_length = run_length.after(step, max(step + 1, round(step + factor * (run_length.total - step))))
    assert RunLength.from_state(json.loads(json.dumps(run_length.state())), 1) == run_length
    positions = [run_length.position(step) for step in range(0, run_length.total + 1, max(1, run_length.total // 50))]
    assert positions[0] == 0
    assert all(a < b for a, b in itertools.pairwise(positions))
    assert run_length.position(run_length.total) == pytest.approx(planned)
    assert len(run_length.plans) <= len(factors) + 1


@given(st.integers(1, 2000))
def test_without_a_change_of_plan_the_schedule_is_the_step_itself(total):
    assert [RunLength.of(total).position(step) for step in range(total)] == list(range(total))


@given(st.integers(0, 100), st.floats(-50, 500), SECONDS, st.integers(1, 400))
def test_steps_in_time_are_as_many_as_the_time_left_holds(step, left, per_step, more):
    total = steps_in_time(step, seconds_left=left, seconds_per_step=per_step, most=step + more)
    assert step + 1 <= total <= step + more
    if step + 1 < total:
        assert (total - step) * per_step <= left * (1 + 1e-9)
    if total < step + more:
        assert (total - step + 1) * per_step > left * (1 - 1e-9)


@given(st.floats(0.5, 3.0), st.floats(0.5, 2.0), st.integers(16, 400))
def test_a_speed_that_drifts_is_followed_until_the_time_is_over(drift, change, planned):
    """A training whose steps take another time than was measured, and from its middle on a third one."""
    late_drift = drift * change
    seconds, run_length, used = float(planned), RunLength.of(planned), 0.0
    step, recent, estimate = 0, [], None
    while step < run_length.total:
        took = drift if step < planned / 2 else late_drift
        step, used = step + 1, used + took
        recent.append(took)
        if step == run_length.next_adjustment and step < run_length.total:
            estimate = smoothed(estimate, sum(recent) / len(recent))
            total = steps_in_time(step, seconds_left=seconds - used, seconds_per_step=estimate, most=10**6)
            run_length, recent = run_length.after(step, total), []
    assert used == pytest.approx(seconds, rel=0.1, abs=3 * max(drift, late_drift))


def test_the_schedule_of_a_part_of_an_epoch_has_all_its_phases():
    config = OptimConfig(warmup_epochs=1.0, decay_epochs=3.0)
    factors = [one_cycle(step, steps_per_epoch=100, epochs=0.4, config=config).lr_factor for step in range(41)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == pytest.approx(1.0)
    assert factors[-1] == pytest.approx(0.001)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("1h30m", 5400), ("1.5h", 5400)])
def test_a_duration_in_words_has_its_seconds(text, seconds):
    assert parse_duration("train.budget", text) == seconds


@pytest.mark.parametrize("text", ["30", "m", "0s", "30m1h", "-5m", " 5m", "1e3s"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ConfigError, match=r"train\.budget"):
        parse_duration("train.budget", text)


def test_a_source_that_takes_too_much_of_the_time_is_left_out_unless_the_user_wants_it():
    seconds = {"words": 19.0, "neighbours": 21.0, "names": 0.1}
    values = {"output": "run", "data": {"source": {"kind": "icd10cm"}}}
    (choice,) = costly_sources(config_from_dict(values), seconds, 100.0)
    assert (choice.name, choice.value) == ("evidence.neighbours", False)
    assert not costly_sources(config_from_dict({**values, "evidence": {"neighbours": True}}), seconds, 100.0)


def test_the_worth_of_more_time_is_stated_as_far_as_it_is_known():
    assert "no effect" in effect_of_more_time(True, [], "P@1")
    assert "unknown" in effect_of_more_time(False, [(1, 50.0)], "P@1")
    assert "likely to improve it further" in effect_of_more_time(False, [(1, 50.0), (2, 60.0)], "P@1")
    assert "unlikely" in effect_of_more_time(False, [(1, 50.0), (2, 49.0)], "P@1")


# Real trainings


class Clock:
    """A clock that each look moves on: by one second, and from some look on by others."""

    def __init__(self, slow_from, slow):
        self.now, self.looks, self.slow_from, self.slow = 0.0, 0, slow_from, slow

    def __call__(self):
        self.looks += 1
        self.now += self.slow if self.looks > self.slow_from else 1.0
        return self.now


def train_by_clock(jobs):
    """Train runs that are held to a time which a clock of the test tells; a number is the step that stops one."""
    from support.checkpoints import _signalling

    from cxml.parallel import distributed
    from cxml.training import loop
    from cxml.training.train_job import train_in_group

    real, finished, step = time_limit.AdaptiveStepLimit.__init__, [], loop.train_step
    with distributed(threads=1) as ranks:
        for config, limit, clock, stop in jobs:

            def begin(self, *arguments, clock=clock, **options):
                real(self, *arguments, **{**options, "clock": clock})

            time_limit.AdaptiveStepLimit.__init__ = begin
            loop.train_step = _signalling(step, stop, ranks.rank)
            finished.append(train_in_group(config, FINGERPRINTS, ranks, "auto", limit))
    time_limit.AdaptiveStepLimit.__init__, loop.train_step = real, step
    return finished


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("budget")
    raw = write_rows(folder / "raw", 12, 160)
    config = small_config(
        folder / "base", make_encoder(folder / "encoder"), tree={"level_sizes": (4,)},
        data={"source": config_from_dict(small_values(folder, "x", raw)).data.source, "max_length": 8},
        model={"dropouts": (0.0, 0.0), "shortlist_sizes": (2,)},
        train={"epochs": 4, "batch_size": 16, "threads_per_worker": 1, "steps": 25},
    )  # fmt: skip
    prepare_with_tree(config)
    return config


def steps_of(output):
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [record["step"] for record in lines if record["kind"] == "train"], lines


def test_a_training_ends_within_an_epoch_after_its_steps(base, tmp_path):
    run_here(train, (checkpointed(base, tmp_path, train={"evaluate_every": 1}), FINGERPRINTS), 1)
    steps, lines = steps_of(tmp_path)
    assert steps == list(range(1, 26))
    assert [each["epoch"] for each in lines if each["kind"] == "evaluate"] == [1, 2, 3]
    rates = [each["lr_factor"] for each in lines if each["kind"] == "train"]
    expected = [one_cycle(s, steps_per_epoch=10, epochs=2.5, config=base.optim).lr_factor for s in range(25)]
    assert rates == pytest.approx(expected, abs=1e-6)


def test_a_training_by_the_clock_is_shortened_when_it_gets_slower_and_ends_its_schedule(base, tmp_path):
    run_here(train_by_clock, ([(checkpointed(base, tmp_path), TimeLimit(60.0, 40), Clock(30, 2.0), None)],), 1)
    steps, lines = steps_of(tmp_path)
    assert steps[-1] < 25
    assert lines[-1]["lr_factor"] < 0.3


def test_a_training_that_is_faster_than_measured_has_more_steps_but_no_more_than_all_epochs(base, tmp_path):
    run_here(train_by_clock, ([(checkpointed(base, tmp_path), TimeLimit(10_000.0, 40), Clock(9, 1.0), None)],), 1)
    assert steps_of(tmp_path)[0][-1] == 40


def test_a_stopped_run_goes_on_with_its_plan_and_with_the_time_that_it_has_used(base, tmp_path):
    config = checkpointed(base, tmp_path, checkpoint={"every_minutes": 0.0, "every_steps": 5, "keep_last": 99})
    limit = TimeLimit(100.0, 40)
    jobs = [(config, limit, Clock(9, 2.0), 12), (config, limit, Clock(0, 1.0), None)]
    assert run_here(train_by_clock, (jobs,), 1) == [False, True]
    states = {
        entry.step: read_checkpoint_manifest(entry.url).run for entry in list_checkpoints(str(tmp_path / "checkpoints"))
    }
    later = min(step for step in states if step > 12)
    assert states[12].pace == states[later].pace[: len(states[12].pace)]
    assert 0 < states[5].used_seconds < states[12].used_seconds < states[later].used_seconds


def test_two_processes_take_the_plan_of_the_first(base, tmp_path):
    config = checkpointed(base, tmp_path, train={"num_workers": 2})
    assert run_workers(train_by_clock, ([(config, TimeLimit(60.0, 40), Clock(12, 3.0), None)],), 2) == [True]
    assert steps_of(tmp_path)[0][-1] < 25


# Whole runs


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    """A run with far more time than it needs, and the same without a budget."""
    folder = tmp_path_factory.mktemp("whole")
    configs = {}
    for name, budget in (("budget", "10h"), ("without", "")):
        config = dataclasses.replace(base, output=str(folder / name))
        configs[name] = with_values(config, {"train.budget": budget, "train.steps": 0, "train.epochs": 2})
    return configs, {name: pipeline.run(config, run_job=run_here) for name, config in configs.items()}


def test_with_more_time_than_needed_the_run_is_the_one_without_a_budget(whole):
    configs, reports = whole
    found, expected = (model_tensors(path(configs[name])) for name in ("budget", "without"))
    for name, values in expected.items():
        assert torch.equal(found[name], values), name
    assert reports["budget"]["levels"] == reports["without"]["levels"]
    assert "enough for all 20 steps, 2.00 of 2 epochs" in reports["budget"]["budget"]["plan"]
    assert "no effect" in reports["budget"]["budget"]["more"]


@pytest.mark.parametrize("top_k", [(1, 2), (1, 3, 10)])
def test_the_worth_of_more_time_is_known_at_other_cut_offs_than_those_of_the_training(whole, tmp_path, top_k):
    shutil.copytree(whole[0]["budget"].output, tmp_path / "run")
    config = with_values(whole[0]["budget"], {"output": str(tmp_path / "run"), "evaluate.top_k": list(top_k)})
    levels = [[{}, {"nDCG@1": 10.0 * epoch, "nDCG@3": 20.0 * epoch}] for epoch in (1, 2)]
    with (tmp_path / "run" / "metrics.jsonl").open("a") as stream:
        for epoch, own in enumerate(levels, 1):
            print(json.dumps({"kind": "evaluate", "epoch": epoch, "split": "validation", "levels": own}), file=stream)
    plan = artefacts.read_json(f"{config.output}/budget.json", "")
    plan["plan"]["most"] += 1  # as if an epoch had not fitted
    (tmp_path / "run" / "budget.json").write_text(json.dumps(plan))
    assert "nDCG@3 went from 20.00 to 40.00" in budget_report(config)["more"]


def path(config):
    return Path(config.output)


def test_a_plan_shortens_the_schedule_and_what_the_run_chose_by_its_length(whole, monkeypatch):
    configs, _ = whole
    config = dataclasses.replace(
        with_values(configs["without"], {"train.budget": "10h"}),
        output=str(path(configs["without"]).parent / "short"), auto=BY_LENGTH,
    )  # fmt: skip
    monkeypatch.setattr(
        "cxml.pipeline.time_budget.steps_within_budget",
        lambda *a: dataclasses.replace(steps_within_budget(*a), steps=5),
    )
    pipeline.run(config, run_job=run_here)
    monkeypatch.undo()
    fitted = resolved(config)
    assert (fitted.train.steps, fitted.optim.decay_epochs, fitted.optim.warmup_epochs) == (5, 0.42, 0.025)
    kept = artefacts.read_json(f"{config.output}/settings.json", "")["budget"]
    assert [choice["name"] for choice in kept["choices"]] == ["train.steps", *BY_LENGTH]
    again = pipeline.run(config, run_job=refuse)
    assert again["levels"]


def test_the_option_budget_is_that_field_and_a_bad_one_is_refused(base, tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text(dump_config(config_to_dict(base)))
    assert main(["--config", str(tmp_path / "mine.yaml"), "--budget", "30m", "--print-config"]) == 0
    assert "budget: 30m" in capsys.readouterr().out
    assert main(["--config", str(tmp_path / "mine.yaml"), "--budget", "soon"]) == 2
    assert "train.budget" in capsys.readouterr().err


def in_time(config, budget, output):
    return dataclasses.replace(with_values(config, {"train.budget": budget}), output=str(output))


def test_the_seconds_of_earlier_starts_count_as_used_unless_a_stage_is_repeated(base, tmp_path):
    config = in_time(base, "10h", tmp_path)
    BudgetClock(36_000.0, 40.0, time.monotonic() - 5).keep(config.output)
    assert BudgetClock.of(config, time.monotonic()).used >= 45
    assert BudgetClock.of(config, time.monotonic(), again=True).before == 0


def wait_for_ever(*_):
    threading.Event().wait()


def test_a_stage_is_interrupted_when_the_budget_is_used_up(base, tmp_path):
    clock = BudgetClock.of(in_time(base, "1s", tmp_path), time.monotonic())
    expected = pytest.raises(ConfigError, match=r"train\.budget.*stage tree is not finished.*Give more than")
    with expected, clock.limited_before_plan("tree"):
        wait_for_ever()


def test_a_run_without_time_is_refused_before_its_first_stage(base, tmp_path):
    config = in_time(base, "30s", tmp_path / "run")
    with pytest.raises(ConfigError, match=r"stage prepare is not finished.*Give more than"):
        pipeline.run(config, run_job=refuse, began=time.monotonic() - 31)
    assert not (tmp_path / "run" / "data").exists()


def test_a_run_with_a_plan_is_not_limited(base, tmp_path):
    config = in_time(base, "30s", tmp_path)
    write_budget(config.output, {"plan": {}})
    with BudgetClock.of(config, time.monotonic() - 31).limited_before_plan("prepare"):
        pass


def test_processes_whose_start_takes_too_much_of_the_budget_are_ended(base, tmp_path):
    config = in_time(base, "6s", tmp_path)

    def never_ready(work, arguments, num_workers):
        return run_workers(wait_for_ever, (), 2)

    clock = BudgetClock.of(config, time.monotonic())
    with pytest.raises(ConfigError, match=r"starting processes takes . s or more, 2 more times.*Give more than"):
        make_step_budget(config, config, clock, never_ready, evaluates=True)
    assert not multiprocessing.active_children()


def test_an_alarm_that_was_set_before_still_rings():
    def work():
        with interrupting_after(0.2):
            with interrupting_after(3600):
                pass
            wait_for_ever()

    with pytest.raises(OutOfTime):
        work()


def measured_steps(config, seconds, most):
    """The speed, and the number of steps that its measurement took."""
    from cxml.training import speed

    real, steps = speed.train_step, []

    def counted(*arguments):
        steps.append(1)
        return real(*arguments)

    speed.train_step = counted
    try:
        return speed.measure_speed(config, seconds, most), len(steps)
    finally:
        speed.train_step = real


@pytest.mark.parametrize(("most", "steps"), [(0.0, 2), (10_000.0, 5)])
def test_a_measurement_takes_fewer_steps_if_the_budget_is_small(base, most, steps):
    speed, found = run_here(measured_steps, (base, 0.0, most), 1)
    assert found == steps
    assert speed.steps_per_epoch == 10
    assert speed.step_seconds > 0
    assert speed.text_seconds > 0


RUN = """
import sys
from cxml import pipeline
from cxml.config_files import load_config
from cxml.parallel import run_here
pipeline.run(load_config(sys.argv[1]), run_job=run_here)
"""


def test_a_killed_run_keeps_its_plan_and_the_seconds_of_its_last_checkpoint(base, tmp_path):
    config = with_values(
        in_time(base, "10h", tmp_path / "run"),
        {"train.steps": 0, "train.epochs": 40, "checkpoint.every_steps": 10, "checkpoint.keep_last": 99},
    )
    file, log = tmp_path / "config.yaml", tmp_path / "log.txt"
    file.write_text(dump_config(config_to_dict(config)))
    command = [sys.executable, "-c", RUN, str(file)]
    with log.open("wb") as out:
        running = subprocess.Popen(command, stdout=out, stderr=out)
        while running.poll() is None and not list_checkpoints(f"{config.output}/checkpoints"):
            time.sleep(0.05)
        running.kill()
        assert running.wait() == -signal.SIGKILL, log.read_text()
    plan = (tmp_path / "run" / "budget.json").read_bytes()
    before = {entry.step for entry in list_checkpoints(f"{config.output}/checkpoints")}
    with pytest.raises(StaleArtefactError, match=r"another time budget.*--force train"):
        pipeline.run(with_values(config, {"train.budget": "9h"}), run_job=refuse)
    assert (tmp_path / "run" / "budget.json").read_bytes() == plan
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "Resuming from" in done.stderr
    assert (tmp_path / "run" / "budget.json").read_bytes() == plan
    assert steps_of(tmp_path / "run")[0] == list(range(1, 401))
    used = {
        entry.step: read_checkpoint_manifest(entry.url).run.used_seconds
        for entry in list_checkpoints(f"{config.output}/checkpoints")
    }
    assert before < used.keys()
    assert [used[step] for step in sorted(used)] == sorted(used.values())


def refuse(work, arguments, num_workers):
    raise AssertionError("nothing is left to do")


def test_a_final_fit_and_a_budget_are_refused_together(base):
    with pytest.raises(ConfigError, match=r"train\.budget.*refit"):
        with_values(base, {"train.budget": "5m", "train.steps": 0, "train.keep": "refit"})
