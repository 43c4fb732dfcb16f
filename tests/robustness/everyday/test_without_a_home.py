"""Users without a writable home folder: everything works, and code that others could have planted is not loaded.

Oracle: real processes of other users in empty environments.
"""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from support.disks import small_disk
from support.untrained import untrained_export

from cxml.data import ShardCache
from cxml.errors import ConfigError, StorageError
from cxml.jit import is_private

ROOT = Path(__file__).parents[3]
NOBODY, STRANGER = 65534, 54321  # a user of the password file, and one that is in none

KERNEL = """
import logging, os, sys
logging.basicConfig(level="INFO")
import numpy as np
from cxml.jit import cached_njit
from cxml.tree import two_means
kernel = two_means.seed_of_node
print(kernel(np.int64(1), np.int64(2), np.int64(3)))
print(kernel._cache.cache_path)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the code that nobody may write into, in folders that all may read."""
    folder = tmp_path_factory.mktemp("source")
    shutil.copytree(ROOT / "cxml", folder / "cxml", ignore=shutil.ignore_patterns("__pycache__"))
    for path in (*folder.rglob("*"), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)
    _open_to_all(folder.parent)
    yield folder
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)


@pytest.fixture
def place(tmp_path):
    """An empty folder in which every user may write, the current one of the commands."""
    _open_to_all(tmp_path)
    folder = tmp_path / "place"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def _open_to_all(folder):
    for each in (folder, *folder.parents):
        if each.stat().st_uid == os.geteuid() and each != Path("/"):
            each.chmod(each.stat().st_mode | 0o055)


def run_as(user, source, place, program, **variables):
    """Run a program without rights of root, in an environment of these variables alone.

    It may read every file, since the interpreter may be in a folder of this user.
    """
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", program]
    if os.geteuid() == 0:
        if not shutil.which("setpriv"):
            pytest.skip("setpriv is not installed")
        reading = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
        bounds = ["--bounding-set=-all,+dac_read_search"]
        command = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *reading, *bounds, *command]
    return subprocess.run(
        command, env=environment | variables, cwd=place, capture_output=True, text=True, check=False, timeout=180
    )


@pytest.mark.parametrize(
    ("user", "variables"),
    [(NOBODY, {}), (NOBODY, {"HOME": "/nonexistent"}), (NOBODY, {"HOME": "/proc"}), (STRANGER, {}),
     (STRANGER, {"HOME": ""}), (STRANGER, {"XDG_CACHE_HOME": ""}), (NOBODY, {"HOME": "."}),
     (NOBODY, {"HOME": "/nonexistent", "NUMBA_CACHE_DIR": "/nonexistent/cache"}),
     (NOBODY, {"HOME": "/nonexistent", "XDG_CACHE_HOME": "/nonexistent/cache"})],
)  # fmt: skip
def test_kernels_are_compiled_in_memory_where_nothing_can_be_written(source, place, user, variables):
    done = run_as(user, source, place, KERNEL, **variables)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1] == "None"
    assert done.stderr.count("Compiled code is not cached on disk") == 1
    assert "Set NUMBA_CACHE_DIR to a folder" in done.stderr
    assert not list(place.iterdir())  # no folder named ~


@pytest.mark.parametrize("variable", ["NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "HOME"])
def test_a_writable_folder_that_the_user_names_is_used(source, place, variable):
    own = place / "own"
    own.mkdir(mode=0o700)
    os.chown(own, NOBODY if os.geteuid() == 0 else -1, -1)
    others = {} if variable == "HOME" else {"HOME": "/nonexistent"}
    for _ in range(2):
        done = run_as(NOBODY, source, place, KERNEL, **others, **{variable: str(own)})
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[1].startswith(str(own))
        assert "not kept" not in done.stderr
    assert list(own.rglob("*seed_of_node*.nbc"))


def test_the_users_own_choice_wins_over_other_folders(source, place):
    for name in ("numba", "cache"):
        (place / name).mkdir()
        (place / name).chmod(0o777)
    done = run_as(NOBODY, source, place, KERNEL, NUMBA_CACHE_DIR=str(place / "numba"), XDG_CACHE_HOME=str(place))
    assert done.stdout.splitlines()[1].startswith(str(place / "numba")), done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make folders of another user")
@pytest.mark.parametrize("planted", [".cache", ".cache/numba", ".cache/numba-open"])
def test_code_is_not_loaded_from_folders_that_another_user_can_change(source, place, planted):
    """As in HOME=/tmp, where anybody may have made .cache."""
    folder = place / planted.removesuffix("-open")
    folder.mkdir(parents=True)
    if planted.endswith("-open"):
        for each in (folder.parent, folder):
            os.chown(each, NOBODY, NOBODY)
    else:
        os.chown(folder, STRANGER, STRANGER)
    folder.chmod(0o777)
    done = run_as(NOBODY, source, place, KERNEL, HOME=str(place))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1] == "None"
    assert not list(place.rglob("*.nb[ic]"))


def test_only_folders_that_no_other_user_can_change_are_private(tmp_path):
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    assert is_private(inner)
    (tmp_path / "link").symlink_to(inner)
    assert is_private(tmp_path / "link")
    (tmp_path / "a").chmod(0o777)
    assert not is_private(inner)
    assert not is_private(tmp_path / "link")
    (tmp_path / "a").chmod(0o1777)
    assert is_private(inner)  # others can make folders beside it, and not replace it
    assert not is_private(tmp_path / "a")


def test_a_damaged_cache_is_compiled_anew(source, place):
    def run():
        return run_as(NOBODY, source, place, KERNEL, HOME="/nonexistent", NUMBA_CACHE_DIR=str(place))

    first = run()
    for pattern in ("*seed_of_node*.nbi", "*seed_of_node*.nbc"):
        for content in (b"", b"torn", b"\x80\x04K\x01."):
            for file in place.rglob(pattern):
                file.write_bytes(content)
                file.chmod(0o666)
            again = run()
            assert again.returncode == 0, again.stderr
            assert again.stdout == first.stdout


def test_a_full_disk_does_not_stop_a_kernel(source, place):
    with small_disk(place / "full", "64k") as disk:
        disk.chmod(0o777)
        (disk / "fill").write_bytes(b"x" * (56 << 10))
        done = run_as(NOBODY, source, place, KERNEL, HOME="/nonexistent", NUMBA_CACHE_DIR=str(disk))
        assert done.returncode == 0, done.stderr
        assert "No space left on device" in done.stderr
        assert "Error" not in done.stderr


def test_a_user_without_a_home_predicts(source, place, tmp_path):
    exported = untrained_export(tmp_path, [f"label {i}" for i in range(8)])
    _open_to_all(Path(exported))
    program = f"""
import sys
import cxml
predictor = cxml.Predictor.from_pretrained({exported!r})
print(predictor.predict(["a text"], 3).labels.tolist())
(__import__("pathlib").Path("texts.txt")).write_text("a text\\n")
from cxml.commands import predict
sys.exit(predict.main([{exported!r}, "texts.txt", "--output", "predicted"]))
"""
    done = run_as(STRANGER, source, place, program)
    assert done.returncode == 0, done.stderr
    assert (place / "predicted" / "manifest.json").exists()


def test_triton_compiles_into_a_private_folder_that_goes_with_the_process(source, place):
    pytest.importorskip("triton")
    program = """
from triton import knobs
from cxml.triton_cache import use_writable_cache
use_writable_cache()
print(knobs.cache.dir)
import os
print(os.stat(knobs.cache.dir).st_mode)
"""
    done = run_as(NOBODY, source, place, program, HOME="/nonexistent", TMPDIR=str(place))
    assert done.returncode == 0, done.stderr
    folder, mode = done.stdout.split()
    assert Path(folder).parent == place
    assert stat.S_IMODE(int(mode)) == 0o700
    assert not list(place.iterdir())
    named = run_as(NOBODY, source, place, program, HOME="/nonexistent", TRITON_CACHE_DIR=str(place / "triton"))
    assert named.stdout.split()[0] == str(place / "triton")


def test_rays_token_needs_no_home(source, place):
    program = """
import os
from cxml.ray_cluster import _provide_token
_provide_token()
print(len(os.environ.get("RAY_AUTH_TOKEN", "")))
"""
    for user, variables in ((NOBODY, {"HOME": "/nonexistent"}), (STRANGER, {})):
        done = run_as(user, source, place, program, **variables)
        assert (done.returncode, done.stdout) == (0, "64\n"), done.stderr
    assert run_as(NOBODY, source, place, program, HOME="/nonexistent", RAY_AUTH_TOKEN="mine").stdout == "4\n"
    assert run_as(NOBODY, source, place, program, HOME=str(place)).stdout == "0\n"  # Ray keeps one there


def test_a_shard_cache_without_a_home_names_its_setting(monkeypatch, tmp_path):
    monkeypatch.delenv("CXML_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(ConfigError, match=r"^CXML_CACHE = .*Set it to a folder"):
        ShardCache.from_environment()
    monkeypatch.setenv("CXML_CACHE", str(tmp_path / "file" / "cache"))
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match=r"cannot be cached in .*Set CXML_CACHE to a writable folder"):
        ShardCache.from_environment().fetch("memory://data", [])
