"""Train a model on texts and labels in memory, or on tables at a path."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cxml.config import Config, config_from_dict, config_to_dict
from cxml.config_files import dump_config
from cxml.errors import ConfigError, CxmlError
from cxml.fitting.tables import rows_folder, rows_of, write_rows
from cxml.operating_system import ending_with_parent
from cxml.prediction import Predictor
from cxml.progress import Relay, relayed_environment
from cxml.tree.thread_pool import default_threads

_TAIL = 20  # last lines of the process's output that an error shows


def train(
    texts: Any,  # noqa: ANN401 - of many libraries
    labels: Any = None,  # noqa: ANN401
    *,
    output: str | os.PathLike[str] | None = None,
    budget: str | None = None,
    verbose: bool = True,
    **fields: Any,  # noqa: ANN401 - of the config
) -> Predictor:
    """Train a model. Settings that are not given are chosen from the data.

    The training runs in a separate process, which starts `train={"num_workers": ...}` worker processes.

    Args:
        texts: N texts in a list, NumPy array, pandas Series or Arrow array; a pandas DataFrame or Arrow table with
            columns such as `text` and `labels`; or the path of a table or a folder of tables, as
            `data.source.kind: table` reads them. Files named test, or a fifth of the rows, are not used for training.
        labels: for each text the name of its label or a list of names. None for a table or a path.
        output: the folder for data, checkpoints and model. A second call with the same folder resumes the run, or
            raises an error if the folder was made from other data. None: a temporary folder, which is deleted.
        budget: time limit of the training, including data and tree, such as `30m`; None: no limit.
        verbose: show the output of the process on standard error.
        **fields: fields of the config (docs/reference/config.md): sections as mappings, such as
            `train={"epochs": 3}`, or dotted names, such as `**{"train.epochs": 3}`.

    Returns:
        The trained model.

    Raises:
        ConfigError: texts, labels or fields are invalid. The message names the field or the position.
        CxmlError: the training failed.
    """
    with _folder(output) as folder:
        config = _config(texts, labels, folder, fields if budget is None else {**fields, "train.budget": budget})
        _train_in_subprocess(config, verbose=verbose)
        return Predictor.from_checkpoint(config.output)


@contextlib.contextmanager
def _folder(output: str | os.PathLike[str] | None) -> Iterator[str]:
    if output is not None:
        yield os.fspath(output)
        return
    with tempfile.TemporaryDirectory(prefix="cxml-train-", ignore_cleanup_errors=True) as folder:
        yield folder


def _config(texts: Any, labels: Any, output: str, fields: Mapping[str, Any]) -> Config:  # noqa: ANN401
    """The config of the run. Rows in memory are written to its output."""
    is_path = isinstance(texts, str | os.PathLike) and labels is None
    raw = os.fspath(texts) if is_path else rows_folder(output)
    source = {"kind": "table" if is_path else "parquet", "path": raw}
    values: dict[str, Any] = {"output": output, "data": {"source": source}}
    for name, value in fields.items():
        _put(values, name.split("."), value)
    config = _within_threads(config_from_dict(values))
    if not is_path:
        _refuse_evaluation_without_texts(config)
        write_rows(Path(raw), *rows_of(texts, labels))
    return config


def _refuse_evaluation_without_texts(config: Config) -> None:
    """Raise `ConfigError` for evaluations during training without validation texts: all rows are train texts."""
    train = config.train
    is_open = "train.validation_fraction" in config.auto  # the run then holds some out
    if train.evaluate_every and not train.validation_fraction and not is_open:
        raise ConfigError(
            "train.evaluate_every", train.evaluate_every, "has no texts to evaluate: the model is trained on all texts",
            "Hold out a part of them with train.validation_fraction, such as 0.1, or leave it out.",
        )  # fmt: skip


def _within_threads(config: Config) -> Config:
    """The config whose processes together take the threads that OMP_NUM_THREADS says, where it is set.

    joblib sets it in its processes, such as those of `cross_val_score(..., n_jobs=4)`: each has its share of the cores.
    """
    train = config.train
    if "OMP_NUM_THREADS" not in os.environ or train.threads_per_worker or config.launch.launcher == "ray":
        return config
    threads = max(1, default_threads() // train.num_workers)
    return dataclasses.replace(config, train=dataclasses.replace(train, threads_per_worker=threads))


def _put(values: dict[str, Any], path: list[str], value: object) -> None:
    """Set a field in nested mappings; a mapping sets each field that it names."""
    name, *rest = path
    if rest:
        _put(values.setdefault(name, {}), rest, value)
    elif isinstance(value, Mapping):
        for inner, each in value.items():
            _put(values.setdefault(name, {}), str(inner).split("."), each)
    else:
        values[name] = list(value) if isinstance(value, tuple) else value


def _train_in_subprocess(config: Config, *, verbose: bool) -> None:
    """Train in a new process.

    Raises:
        CxmlError: the training failed. The message contains the last lines of its output.
    """
    with tempfile.TemporaryDirectory(prefix="cxml-config-") as folder:  # private, as URLs may contain secrets
        file = Path(folder, "config.yaml")
        file.write_text(dump_config(config_to_dict(config, with_credentials=True)))
        process = subprocess.Popen(
            [*ending_with_parent(signal.SIGTERM), sys.executable, "-m", "cxml.fitting.process", str(file)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace",
            env={**os.environ, **(relayed_environment() if verbose else {})},
        )  # fmt: skip
        said: deque[str] = deque(maxlen=_TAIL)
        try:
            _forward_output(process, said, verbose=verbose)
            code = process.wait()
        except BaseException:  # Ctrl-C in a notebook reaches only its own process
            process.terminate()
            process.wait()
            raise
    if code:
        last = said[-1].strip() if said else f"the training ended with exit code {code}"
        raise CxmlError(last if code == 2 else "".join(said) or last)


def _forward_output(process: subprocess.Popen[str], said: deque[str], *, verbose: bool) -> None:
    """Forward the process's output to standard error until it ends, and keep its last lines."""
    assert process.stderr is not None
    relay = Relay()
    try:
        for line in process.stderr:
            if relay.take(line):
                continue
            said.append(line)
            if verbose:
                print(line, end="", file=sys.stderr)  # printed, because a notebook does not show inherited streams
    finally:
        relay.close()
