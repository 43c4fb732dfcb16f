"""One writer per output folder: a second command is refused and told about the first; a dead one blocks nobody.

The writers are real processes, on a disk and on a real S3 server. Oracle: which of them holds the lock.
"""

import contextlib
import dataclasses
import importlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from pathlib import Path

import fsspec
import psutil
import pytest
from support.launching import wait_until
from support.object_store import BUCKET, options

from cxml import storage
from cxml.errors import InUseError, StorageError
from cxml.operating_system import start_ticks
from cxml.storage import object_lock
from cxml.storage.holder import Holder
from cxml.storage.locks import locked

HOLD = """
    import sys, time, fsspec
    {setup}
    from cxml.storage import object_lock
    object_lock.BEAT_SECONDS, object_lock.EXPIRY_SECONDS, object_lock._POLL_SECONDS = {times}
    from cxml.storage.locks import locked
    with locked(sys.argv[1]):
        print("held", flush=True)
        {then}
"""
TIMES = 0.3, 4.0, 0.1


@pytest.fixture(params=["disk", "s3"])
def place(request, tmp_path, monkeypatch):
    """A folder on a store, and the code that lets another process reach it."""
    if request.param == "disk":
        return str(tmp_path / "run [1]"), ""
    port = request.getfixturevalue("store")
    request.getfixturevalue("use_store")(port)
    monkeypatch.setattr(object_lock, "BEAT_SECONDS", TIMES[0])
    monkeypatch.setattr(object_lock, "EXPIRY_SECONDS", TIMES[1])
    monkeypatch.setattr(object_lock, "_POLL_SECONDS", TIMES[2])
    return f"s3://{BUCKET}/run [1]/{uuid.uuid4().hex}", f"fsspec.config.conf['s3'] = {options(port)!r}"


@pytest.fixture
def hold():
    """Start processes that hold the lock of a folder until they are told otherwise."""
    started = []

    def start(place, then="time.sleep(600)"):
        url, setup = place
        code = textwrap.dedent(HOLD).format(setup=setup, times=TIMES, then=then)
        process = subprocess.Popen(
            [sys.executable, "-c", code, url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # forked children as well
        process.communicate()


def until_held(process):
    line = process.stdout.readline()
    assert line == "held\n", process.communicate()[1]
    return process


def test_a_second_command_is_refused_and_told_who_holds_the_folder(place, hold):
    process = until_held(hold(place))
    with pytest.raises(InUseError) as refusal, locked(place[0]):
        pass
    message = str(refusal.value)
    assert message.startswith(f"{place[0]} is in use: `")
    assert f"(process {process.pid} of " in message
    assert os.uname().nodename in message
    assert "name another folder" in message


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_leaves_no_lock(place, hold, number):
    process = until_held(hold(place))
    process.send_signal(number)
    process.wait()
    with locked(place[0]):
        pass


def test_a_folder_is_free_when_the_first_command_has_ended_well(place, hold):
    assert until_held(hold(place, "pass")).wait() == 0
    for _ in range(3):
        with locked(place[0]):
            pass


def test_a_lock_is_given_back_after_an_error(place):
    with pytest.raises(ZeroDivisionError), locked(place[0]):
        raise ZeroDivisionError
    with locked(place[0]):
        pass


def test_of_many_commands_one_wins(place, hold):
    until_held(hold(place)).kill()  # all of them find a lock that is stale
    processes = [hold(place) for _ in range(5)]
    held = refused = 0
    first = None
    for process in processes:
        line = process.stdout.readline()
        if line:
            held, first = held + 1, process
        else:
            refused += "InUseError" in process.communicate()[1]
    assert (held, refused) == (1, 4)
    assert first is not None
    assert first.poll() is None


def test_one_thread_takes_a_lock_twice_and_another_thread_does_not(place):
    seen = []

    def attempt():
        try:
            with locked(place[0]):
                seen.append("taken")
        except InUseError:
            seen.append("refused")

    with locked(place[0]):
        with locked(place[0] + "/"):
            pass
        thread = threading.Thread(target=attempt)
        thread.start()
        thread.join()
    assert seen == ["refused"]


def test_waiting_ends_with_the_other_command(place, hold):
    process, is_killed = until_held(hold(place)), threading.Event()

    def kill():
        is_killed.set()
        process.kill()

    threading.Timer(1, kill).start()
    with locked(place[0], wait=True):
        assert is_killed.is_set(), "the lock was taken while the other command held it"


def test_deleting_what_a_folder_holds_keeps_its_lock(place, hold):
    url = place[0]
    removal = "from cxml import storage; storage.remove(sys.argv[1], keep_lock=True); "
    then = f"{removal}print('gone', flush=True); time.sleep(600)"
    storage.write_atomic(storage.join(url, "data", "file"), b"x")
    process = until_held(hold(place, then))
    assert process.stdout.readline() == "gone\n"
    assert storage.file_sizes(url) == {}
    with pytest.raises(InUseError), locked(url):
        pass


def test_a_lock_is_no_content_of_its_folder(place):
    url = place[0]
    with locked(url):
        assert storage.file_sizes(url) == {}
        storage.write_atomic(storage.join(url, "file"), b"x")
        assert storage.file_sizes(url) == {"file": 1}


def test_a_released_lock_leaves_nothing_on_a_disk(tmp_path):
    with locked(str(tmp_path / "out")):
        assert (tmp_path / "out" / ".lock").exists()
    assert list(tmp_path.iterdir()) == []


def test_a_symbolic_link_to_a_folder_is_the_same_folder(tmp_path, hold):
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    until_held(hold((str(tmp_path / "run"), "")))
    with pytest.raises(InUseError), locked(str(tmp_path / "link")):
        pass


def test_a_forked_child_does_not_keep_the_lock_of_its_parent(tmp_path, hold):
    then = "import os; os.fork() and time.sleep(600); print('forked', flush=True); time.sleep(600)"
    process = until_held(hold((str(tmp_path), ""), then))
    assert process.stdout.readline() == "forked\n"
    process.kill()
    process.wait()
    with locked(str(tmp_path)):
        pass


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": "x"}', b"\xff", b'{"host": null, "more": 1}'])
def test_a_lock_file_that_cannot_be_read_still_locks(tmp_path, hold, content):
    then = f"open(sys.argv[1] + '/.lock', 'wb').write({content!r}); print('done', flush=True); time.sleep(600)"
    process = until_held(hold((str(tmp_path), ""), then))
    assert process.stdout.readline() == "done\n"
    with pytest.raises(InUseError, match="is in use: `another command`"), locked(str(tmp_path)):
        pass


def test_a_left_lock_file_locks_nothing(tmp_path):
    (tmp_path / ".lock").write_text(json.dumps(Holder.this_process().to_json()))
    with locked(str(tmp_path)):
        pass


@pytest.mark.parametrize("make", [Path.symlink_to, Path.hardlink_to], ids=["symbolic", "hard"])
def test_a_lock_that_is_a_link_leads_to_no_other_file(tmp_path, make):
    other, folder = tmp_path / "precious", tmp_path / "from a stranger"
    other.write_text("stays")
    other.chmod(0o600)
    folder.mkdir()
    make(folder / ".lock", other)
    with pytest.raises(StorageError, match=r"\.lock is a link or pipe.* Delete it"), locked(str(folder)):
        pass
    assert other.read_text() == "stays"
    assert other.stat().st_mode & 0o777 == 0o600


def test_a_lock_that_is_a_link_to_nothing_makes_no_file(tmp_path):
    folder = tmp_path / "from a stranger"
    folder.mkdir()
    (folder / ".lock").symlink_to(tmp_path / "new")
    with pytest.raises(StorageError, match="link or pipe"), locked(str(folder)):
        pass
    assert not (tmp_path / "new").exists()


def test_the_lock_in_a_copy_from_an_object_store_is_named_with_the_remedy(tmp_path):
    (tmp_path / ".lock").mkdir()
    (tmp_path / ".lock" / "00000001.json").write_text("{}")
    remedy = r"\.lock is a folder .* an object store.* Delete it"
    with pytest.raises(StorageError, match=remedy), locked(str(tmp_path)):
        pass


# object stores


@pytest.fixture
def remote(monkeypatch):
    """A folder of a store without locks of its own, and short times."""
    monkeypatch.setattr(object_lock, "BEAT_SECONDS", TIMES[0])
    monkeypatch.setattr(object_lock, "EXPIRY_SECONDS", 1.0)
    monkeypatch.setattr(object_lock, "_POLL_SECONDS", TIMES[2])
    return f"memory://{uuid.uuid4().hex}"


def leave_lock(url, number=1, **changes):
    """A lock as a process of another machine would have left it."""
    state = {**Holder.this_process().to_json(), "machine": "elsewhere", "host": "elsewhere", **changes}
    storage.write_json(storage.join(url, ".lock", f"{number:08d}.json"), state)


def test_a_lock_without_a_sign_of_life_expires(remote):
    leave_lock(remote)
    with locked(remote):
        names = storage.list_files(storage.join(remote, ".lock"))
        assert [name[-13:] for name in names] == ["00000002.json"]


def test_a_lock_of_another_machine_that_gives_signs_of_life_is_respected(remote):
    stop = threading.Event()

    def beat():
        while not stop.wait(0.2):
            leave_lock(remote, beat=time.monotonic())

    leave_lock(remote)
    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(InUseError, match="on elsewhere"), locked(remote):
            pass
    finally:
        stop.set()
        thread.join()


def test_the_clock_of_the_other_machine_does_not_matter(remote):
    leave_lock(remote, since="2099-01-01T00:00:00+00:00", started=4e9)
    with locked(remote):
        pass


@pytest.mark.parametrize("began", [{"ticks": 1}, {"ticks": 0, "started": 1.0}], ids=["now", "before ticks"])
def test_a_process_number_that_came_again_is_another_process(began):
    holder = dataclasses.replace(Holder.this_process(), **began)
    assert holder.is_dead


def test_a_clock_that_is_set_while_a_run_holds_a_lock_does_not_end_it():
    holder = Holder.this_process()
    assert not dataclasses.replace(holder, started=holder.started - 3600).is_dead


def test_a_process_that_ended_and_that_nobody_has_asked_for_its_exit_code_is_dead():
    with subprocess.Popen([sys.executable, "-c", "pass"], stdout=subprocess.PIPE) as child:
        holder = dataclasses.replace(Holder.this_process(), pid=child.pid, ticks=start_ticks(child.pid))
        assert child.stdout
        child.stdout.read()  # it ends
        wait_until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE, "the process does not end")
        assert holder.is_dead


def test_a_run_that_has_lost_its_lock_stops(place, hold):
    url, _ = place
    if not url.startswith("s3"):
        pytest.skip("the lock of a disk cannot be lost")
    then = "import subprocess; c = subprocess.Popen(['sleep', '600']); print(c.pid, flush=True); time.sleep(600)"
    process = until_held(hold(place, then))
    child = int(process.stdout.readline())
    process.send_signal(signal.SIGSTOP)  # as a machine does that is suspended
    leave_lock(url, number=2)
    process.send_signal(signal.SIGCONT)
    assert process.wait(60) == 2
    assert "another command took the lock" in process.communicate()[1]
    assert not Path(f"/proc/{child}/exe").exists()
    left = storage.list_files(storage.join(url, ".lock"))
    assert any(file.endswith("00000002.json") for file in left), "the lock of the other command stays"


def test_a_store_that_is_away_for_a_while_ends_no_run(remote, monkeypatch, caplog):
    with locked(remote):
        broken = fsspec.filesystem("memory")
        with monkeypatch.context() as patch:
            patch.setattr(type(broken), "pipe_file", lambda *_, **__: (_ for _ in ()).throw(PermissionError("away")))
            time.sleep(3 * TIMES[0])
        assert "Could not renew the lock" in caplog.text
    with locked(remote):
        pass


# commands


COMMANDS = {
    "cxml.train": [], "cxml.evaluate": [], "cxml.relabel": ["--model", "m"], "cxml.recluster": ["--model", "m"],
    "cxml.tune": [], "cxml.data_tools.import_tree": ["--source", "s"],
}  # fmt: skip


@pytest.mark.parametrize("module", COMMANDS)
def test_every_command_that_writes_is_refused_before_it_does_anything(tmp_path, hold, capsys, module):
    out = tmp_path / "out"
    locked_folder = out / "tree" if module == "cxml.data_tools.import_tree" else out
    process = until_held(hold((str(locked_folder), "")))
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"output": str(out), "data": {"source": {"kind": "jsonl", "path": str(tmp_path)}}}))
    main = importlib.import_module(module).main
    assert main(["--config", str(config), *COMMANDS[module]]) == 2
    assert f"process {process.pid} of " in capsys.readouterr().err
    assert [path for path in out.rglob("*") if path.is_file()] == [locked_folder / ".lock"]


@pytest.mark.parametrize(
    ("module", "arguments"),
    [("cxml.predict", ["model", "texts.txt", "--output"]), ("cxml.data_tools.split", ["data"])],
)
def test_every_tool_that_writes_is_refused_before_it_does_anything(tmp_path, hold, capsys, module, arguments):
    process = until_held(hold((str(tmp_path / "out"), "")))
    assert importlib.import_module(module).main([*arguments, str(tmp_path / "out")]) == 2
    assert f"process {process.pid} of " in capsys.readouterr().err


def test_runs_that_share_their_data_prepare_it_once(tmp_path):
    rows = "\n".join(json.dumps({"text": f"words of {i}", "labels": [f"label {i % 3}"]}) for i in range(12))
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(rows + "\n")
    config = tmp_path / "config.yaml"
    source = {"kind": "jsonl", "path": str(tmp_path)}
    config.write_text(json.dumps({"output": "out", "data": {"source": source, "directory": str(tmp_path / "data")}}))
    command = [sys.executable, "-m", "cxml.data_tools.prepare", "--config", str(config), "--data.engine", "local"]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    logs = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], logs
    assert sum("Prepared 12 train" in log for log in logs) == 1
    assert sum("Prepared data found" in log for log in logs) == 2
