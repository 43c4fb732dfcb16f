"""The JSON metadata of a checkpoint, and the checks that untrusted files must pass before memory is allocated.

manifest.json   tensors, files with sizes and checksums, and all state needed to resume
commit.json     step, metrics, and the manifest's checksum; written last, so a folder without it is not a checkpoint
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import re
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from cxml import artefacts, storage
from cxml.artefacts import FileEntry
from cxml.errors import DataError

FORMAT, VERSION = "cxml-checkpoint", 1
COMMIT_FILE = "commit.json"
SKIPPED = "Use an older checkpoint, or train again with --force train."

_T = TypeVar("_T")
_FILE_BYTES = 1 << 28
_TENSOR_ELEMENTS = 1 << 44
_FILE_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}-[0-9]{5,10}-[0-9]{5,10}\.safetensors")
_SELECTION = {"epoch", "step", "value", "waited"}
_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn,
        torch.int64, torch.int32, torch.uint16, torch.uint8,
    )
}  # fmt: skip


@dataclass(frozen=True)
class TensorEntry:
    """A global tensor.

    Attributes:
        dtype: dtype such as float32.
        numel: elements.
        pieces: [first element, elements, index into the manifest's files] of each, in order, without gaps.
    """

    dtype: str
    numel: int
    pieces: tuple[tuple[int, int, int], ...]

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as torch's."""
        return _DTYPES[self.dtype]


@dataclass(frozen=True, kw_only=True)
class RunState:
    """The state of the run besides its tensors.

    Attributes:
        step: completed optimiser steps.
        world_size: number of ranks of the run that saved it.
        config: its settings, from `cxml.config.config_to_dict`.
        encoder: the encoder's architecture.
        tree: hash of the label tree.
        loader: state of the loader, with the fingerprint of the data.
        optimizer_step: number of updates of the engine's optimiser.
        num_labels: L.
        width: D, width of the encoder's features.
        label_head: storage of the label rows, `rows` or `zero3`.
        row_schedule: step, lr and beta1 of the label rows' schedule; empty for `zero3`.
        unrecorded_steps: steps since the last log record.
        metrics: current metrics, by name.
        before_epoch_end: the last step of an epoch is done, but its evaluation, if any, is not.
        selection: the best epoch so far: epoch, step, value and waited, see `cxml.training.Selection`; empty if none.
        pace: step and total steps of each plan of a run with a time budget; empty for others.
        used_seconds: training time used of that budget.
    """

    step: int
    world_size: int
    config: dict[str, Any]
    encoder: dict[str, Any]
    tree: str
    loader: dict[str, int | str]
    optimizer_step: int
    num_labels: int
    width: int
    label_head: str
    row_schedule: dict[str, float] = field(default_factory=dict)
    unrecorded_steps: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    before_epoch_end: bool = False
    selection: dict[str, float] = field(default_factory=dict)
    pace: list[list[int]] = field(default_factory=list)
    used_seconds: float = 0.0

    @property
    def best_step(self) -> int:
        """Completed steps at the end of the best epoch so far; 0 if there is none."""
        return int(self.selection.get("step", 0))


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All metadata of a checkpoint."""

    format: str = FORMAT
    version: int = VERSION
    run: RunState
    tensors: dict[str, TensorEntry]
    files: tuple[FileEntry, ...]

    def encode(self) -> bytes:
        """As JSON."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True).encode()


@dataclass(frozen=True, kw_only=True)
class Commit:
    """The last and smallest file of a checkpoint.

    Attributes:
        step: completed optimiser steps.
        saved_at: UTC, ISO 8601.
        metrics: current metrics, by name; retention may use them.
        manifest_bytes: size of the manifest.
        manifest_sha256: its checksum.
        best_step: step of the checkpoint with the best weights so far, which must be kept; 0 if there is none.
    """

    format: str = FORMAT
    version: int = VERSION
    step: int
    saved_at: str
    metrics: dict[str, float]
    manifest_bytes: int
    manifest_sha256: str
    best_step: int = 0

    @property
    def manifest_entry(self) -> FileEntry:
        """The file entry of the manifest."""
        return FileEntry(artefacts.MANIFEST, self.manifest_bytes, self.manifest_sha256)

    @classmethod
    def of(cls, manifest: Manifest, saved_at: str) -> Commit:
        """The commit of a manifest."""
        content = manifest.encode()
        return cls(
            step=manifest.run.step, saved_at=saved_at, metrics=manifest.run.metrics, manifest_bytes=len(content),
            manifest_sha256=hashlib.sha256(content).hexdigest(), best_step=manifest.run.best_step,
        )  # fmt: skip

    def encode(self) -> bytes:
        """As JSON."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, indent=2).encode()


def read_commit(url: str) -> Commit:
    """The commit of the checkpoint at `url`.

    Raises:
        FileNotFoundError: the commit is missing, because the save was interrupted.
        DataError: the commit does not have this format.
    """
    file = storage.join(url, COMMIT_FILE)
    commit = _decode(Commit, artefacts.read_object(url, COMMIT_FILE, SKIPPED), file)
    if not 0 <= commit.best_step <= commit.step or artefacts.entry_problem(commit.manifest_entry):
        raise DataError(file, "a field has an invalid value", SKIPPED)
    return commit


def read_checkpoint_manifest(url: str) -> Manifest:
    """The manifest of the checkpoint at `url`, checked against its commit and for consistency.

    Raises:
        DataError: the commit is missing, or the manifest is inconsistent. No memory of the stated sizes was allocated.
    """
    try:
        commit = read_commit(url)
    except FileNotFoundError as error:
        raise DataError(url, "contains no complete checkpoint", SKIPPED) from error
    file = storage.join(url, artefacts.MANIFEST)
    content = artefacts.read_file(url, commit.manifest_entry, SKIPPED, most_bytes=artefacts.MOST_JSON_BYTES)
    manifest = _decode(Manifest, artefacts.parse_object(content, file, SKIPPED), file)
    for problem in _problems(manifest):
        raise DataError(file, problem, SKIPPED)
    run = manifest.run
    if (commit.step, commit.metrics, commit.best_step) != (run.step, run.metrics, run.best_step):
        raise DataError(file, "its step, metrics or best step differ from its commit", SKIPPED)
    return manifest


def _decode(kind: type[_T], values: dict[str, Any], file: str) -> _T:
    if (values.get("format"), values.get("version")) != (FORMAT, VERSION):
        raise DataError(file, f"is not a {FORMAT} of version {VERSION}", SKIPPED)
    return artefacts.parse_as(kind, values, file, SKIPPED)


def _problems(manifest: Manifest) -> list[str]:
    """The problems of a manifest whose types are right."""
    found = [artefacts.entry_problem(entry) or f"file {entry.file} is not a file of a checkpoint"
             for entry in manifest.files if artefacts.entry_problem(entry)
             or not _FILE_NAME.fullmatch(entry.file) or entry.bytes > _FILE_BYTES]  # fmt: skip
    run = manifest.run
    if (
        min(run.step, run.optimizer_step, run.unrecorded_steps) < 0
        or min(run.world_size, run.num_labels, run.width) < 1
    ):
        found.append("a count is invalid")
    elif run.unrecorded_steps > run.step or run.step > _most_steps(run) or run.optimizer_step > run.step + 1:
        # The engine's bf16 AdamW starts its count at 1.
        found.append(f"step {run.step} is inconsistent with the run's other counts")
    if run.selection and set(run.selection) != _SELECTION:
        found.append("selection has invalid fields")
    if not _are_plans(run.pace, run.step) or not 0 <= run.used_seconds < math.inf:
        found.append("pace is invalid")
    if run.label_head not in ("rows", "zero3"):
        found.append(f"label_head {run.label_head[:80]!r} is unknown")
    if found:
        return found
    filled = [0] * len(manifest.files)
    for name, entry in manifest.tensors.items():
        problem = _tensor_problem(entry, filled)
        if problem:
            return [f"tensor {name[:200]!r} {problem}"]
    return [f"file {entry.file} is smaller than its tensors"
            for entry, size in zip(manifest.files, filled, strict=True) if size > entry.bytes]  # fmt: skip


def _are_plans(plans: list[list[int]], step: int) -> bool:
    """Whether these are increasing steps from 0 up to at most `step`, each with a larger total."""
    if not all(len(plan) == 2 and plan[0] < plan[1] for plan in plans):
        return False
    starts = [plan[0] for plan in plans]
    return not plans or (starts[0] == 0 and starts[-1] <= step and starts == sorted(set(starts)))


def _most_steps(run: RunState) -> float:
    """Total steps of the run according to its settings and its loader."""
    rows, batch_size = run.loader.get("rows"), run.loader.get("batch_size")
    train = run.config.get("train")
    epochs = train.get("epochs") if isinstance(train, dict) else None
    if not (isinstance(rows, int) and isinstance(batch_size, int) and isinstance(epochs, int)):
        return math.inf
    if min(rows, batch_size, epochs) < 1:
        return -1
    return (rows if run.loader.get("batch_tokens") else math.ceil(rows / batch_size)) * epochs


def _tensor_problem(entry: TensorEntry, filled: list[int]) -> str:
    """The problem of a tensor's entry, if any. Adds the bytes of its pieces to those of their files."""
    if entry.dtype not in _DTYPES:
        return f"has the unknown type {entry.dtype[:40]!r}"
    if not 0 < entry.numel <= _TENSOR_ELEMENTS:
        return f"has {entry.numel} elements"
    for start, count, file in entry.pieces:
        if count < 1 or start < 0 or not 0 <= file < len(filled):
            return f"has an invalid piece {(start, count, file)}"
        filled[file] += count * entry.torch_dtype.itemsize
    ends = [0, *(start + count for start, count, _ in entry.pieces)]
    starts = [*(start for start, _, _ in entry.pieces), entry.numel]
    if any(end != start for end, start in zip(ends, starts, strict=True)):
        return "has gaps or overlaps between its pieces"
    return ""


def piece_key(name: str, start: int) -> str:
    """The name of a piece in a file."""
    return f"{name}@{start}"


def whole_blocks(names: list[str], prefix: str) -> list[str]:
    """The sorted distinct prefixes `prefix/a/b` of names `prefix/a/b/c`."""
    heads = (name.rsplit("/", 1)[0] for name in names if name.startswith(f"{prefix}/"))
    return [head for head, _ in itertools.groupby(sorted(heads))]
