"""Reads hostile files, each in its own process with a limit on memory and time.

A crash, a hang or a memory blow-up is returned as an outcome, so one bad reader does not end the tests.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

_MEMORY_BYTES = 1 << 30
_SECONDS = 60


def outcomes(cases: dict[str, tuple[str, dict]]) -> dict[str, str]:
    """The outcome of each case (an action below, its arguments): `ok: RESULT`, `refused: MESSAGE`, or how it ended."""
    paths = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
    # The memory pools of Arrow and glibc reserve more address space than the limit allows.
    pools = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1"}
    run = subprocess.run(
        [sys.executable, "-m", "support.bounded"],
        input=json.dumps(cases), capture_output=True, text=True, check=False,
        env={**os.environ, **pools, "PYTHONPATH": os.pathsep.join(paths)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def _source(**arguments: object) -> object:
    """The number of train texts, the first texts and their labels, and the label names."""
    from cxml.config import SourceConfig
    from cxml.formats import read_source

    on_error = arguments.pop("on_error", "refuse")
    raw = read_source(SourceConfig(**arguments), on_error)
    train = raw.splits["train"]
    labels = [train.labels[i].indices.tolist() for i in range(min(3, len(train.texts)))]
    return [len(train.texts), [text[:40] for text in train.texts[:3]], labels, raw.label_names[:5]]


def _texts(**arguments: object) -> object:
    """The number of texts, and the first texts."""
    from cxml.formats import TextSource, read_texts

    count, first = 0, []
    for chunk in read_texts(TextSource(**arguments), 4096):
        first = first or [text[:40] for text in chunk.texts[:3]]
        count += len(chunk.texts)
    return [count, first]


def _clusters(file: str) -> object:
    from cxml.preparation.tree_import import read_clusters

    return [level.tolist() for level in read_clusters(file)]


def _chain(folder: str) -> object:
    from cxml.preparation.tree_import import read_chain

    return [level.tolist() for level in read_chain(folder)]


def _scores(file: str, rows: int, labels: int) -> object:
    from cxml.prediction.score_files import read_scores

    return read_scores(file, rows, labels).toarray().tolist()


def _num_scores(file: str, rows: int, labels: int) -> object:
    """The number of texts in ten thousands, and the number of scores."""
    from cxml.prediction.score_files import read_scores

    found = read_scores(file, rows, labels)
    return [found.shape[0] // 10_000, found.nnz]


def _config(file: str) -> object:
    from cxml.config_files import load_config

    config = load_config(file)
    return [config.output, config.seed, config.train.epochs, config.optim.encoder_lr]


_ACTIONS = {name.strip("_"): action for name, action in list(globals().items()) if name in (
    "_source", "_texts", "_clusters", "_chain", "_scores", "_num_scores", "_config")}  # fmt: skip


def _attempt(action: Callable[..., object], arguments: dict) -> str:
    """The outcome of one case, run in a forked process."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        from cxml.errors import CxmlError

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY_BYTES, used + _MEMORY_BYTES))
        signal.alarm(_SECONDS)
        try:
            outcome = f"ok: {json.dumps(action(**arguments))}"
        except CxmlError as error:
            outcome = f"refused: {error}"
        except BaseException as error:
            outcome = f"crashed: {type(error).__name__}: {error}"
        os.write(writer, outcome.encode(errors="backslashreplace")[:4000])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        outcome = stream.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    return outcome or f"ended with status {os.waitstatus_to_exitcode(status)}"


if __name__ == "__main__":
    # Imported once, before any process is forked.
    import cxml.config_files
    import cxml.formats
    import cxml.prediction.score_files
    import cxml.preparation.tree_import  # noqa: F401

    print(json.dumps({name: _attempt(_ACTIONS[action], arguments)
                      for name, (action, arguments) in json.loads(sys.stdin.read()).items()}))  # fmt: skip
