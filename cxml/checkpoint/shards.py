"""Storage of pieces: files of about 64 MiB at any fsspec URL, written and read with torch's planners.

`ShardWriter` and `ShardReader` replace the storage classes of torch.distributed.checkpoint, which unpickle data. Each
file is uploaded in one request, so a killed upload leaves no file. A file holds pieces of one kind (the first part of
their names), so reading weights does not read optimiser state.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from os import PathLike

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    WriteItem,
)
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from cxml import artefacts, storage
from cxml.accelerators import host_memory
from cxml.artefacts import FileEntry
from cxml.checkpoint.manifest import (
    COMMIT_FILE,
    SKIPPED,
    Commit,
    Manifest,
    RunState,
    TensorEntry,
    piece_key,
    read_checkpoint_manifest,
)
from cxml.checkpoint.tensor_files import parse_tensors, require_finite, tensor_file
from cxml.errors import DataError

_FILE_BYTES = 64 << 20
_UPLOADS = 4
_CACHED_FILES = 3


class ShardWriter(StorageWriter):
    """Writes this rank's pieces under `url`. The first rank then also writes the manifest and the commit."""

    def __init__(self, url: str, rank: int, run: RunState) -> None:
        """Prepare one save.

        Args:
            url: folder of this save only.
            rank: this rank, for its file names.
            run: the run's state for the manifest.
        """
        self._url = url
        self._rank = rank
        self._run = run

    def reset(self, checkpoint_id: str | PathLike[str] | None = None) -> None:
        """Do nothing: a writer is used for one save."""

    def set_up_storage_writer(self, is_coordinator: bool, *args: object, **kwargs: object) -> None:
        """Do nothing: object stores have no folders, and on disks the first file creates them."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Return the plan unchanged."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Return the plans unchanged."""
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write the planned pieces, several files in parallel."""
        files = enumerate(_into_files(plan.items))
        with ThreadPoolExecutor(_UPLOADS) as pool:
            results = list(pool.map(lambda numbered: self._write(numbered[0], numbered[1], planner), files))
        done: Future[list[WriteResult]] = Future()
        done.set_result([result for part in results for result in part])
        return done

    def _write(self, number: int, items: list[WriteItem], planner: SavePlanner) -> list[WriteResult]:
        content = _content(items, planner)
        name = f"{_kind(items[0])}-{self._rank:05d}-{number:05d}.safetensors"
        storage.write_atomic(storage.join(self._url, name), content)
        entry = FileEntry(name, len(content), hashlib.sha256(content).hexdigest())
        return [WriteResult(index=item.index, size_in_bytes=_bytes(item), storage_data=entry) for item in items]

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Write the manifest and commit the checkpoint."""
        entries = {result.index: result.storage_data for part in results for result in part}
        files = sorted(set(entries.values()), key=lambda entry: entry.file)
        number = {entry: i for i, entry in enumerate(files)}
        tensors: dict[str, list[tuple[int, int, int]]] = {name: [] for name in metadata.state_dict_metadata}
        sizes = {(name, chunk.offsets[0]): chunk.sizes[0]
                 for name, saved in metadata.state_dict_metadata.items()
                 if isinstance(saved, TensorStorageMetadata) for chunk in saved.chunks}  # fmt: skip
        for index, entry in entries.items():
            assert index.offset is not None, "planned so"
            start = index.offset[0]
            tensors[index.fqn].append((start, sizes[index.fqn, start], number[entry]))
        manifest = Manifest(
            run=self._run,
            tensors={name: _entry(metadata, name, sorted(pieces)) for name, pieces in tensors.items()},
            files=tuple(files),
        )
        storage.write_atomic(storage.join(self._url, artefacts.MANIFEST), manifest.encode())
        commit = Commit.of(manifest, datetime.now(timezone.utc).isoformat(timespec="seconds"))
        storage.create(storage.join(self._url, COMMIT_FILE), commit.encode())

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | PathLike[str]) -> bool:
        """Whether `checkpoint_id` is a URL."""
        return isinstance(checkpoint_id, str)


class ShardReader(StorageReader):
    """Reads pieces of the committed checkpoint at `url`. Files are checked against the manifest before parsing."""

    def __init__(self, url: str) -> None:
        """Read the manifest.

        Raises:
            DataError: the checkpoint is incomplete, or its manifest is damaged or invalid.
        """
        self.url = url
        self.manifest = read_checkpoint_manifest(url)
        self._files: OrderedDict[int, dict[str, Tensor]] = OrderedDict()

    def tensor(self, name: str) -> Tensor:
        """All of a global tensor, flat."""
        entry = self.entry(name)
        whole = torch.empty(entry.numel, dtype=entry.torch_dtype)
        for start, part in self.pieces(name):
            whole[start : start + len(part)] = part
        return whole

    def pieces(self, name: str) -> Iterator[tuple[int, Tensor]]:
        """The saved pieces of a global tensor: start and values of each."""
        for i, (start, _, _) in enumerate(self.entry(name).pieces):
            yield start, self._piece(name, i)

    def entry(self, name: str) -> TensorEntry:
        """The manifest's entry of a tensor."""
        try:
            return self.manifest.tensors[name]
        except KeyError:
            raise DataError(self.url, f"does not contain {name}", SKIPPED) from None

    def reset(self, checkpoint_id: str | PathLike[str] | None = None) -> None:
        """Do nothing: a reader is used for one checkpoint."""

    def read_metadata(self, *args: object, **kwargs: object) -> Metadata:  # noqa: ARG002
        """The manifest's tensors as metadata for the planners."""
        return Metadata(
            {
                name: TensorStorageMetadata(
                    TensorProperties(dtype=entry.torch_dtype),
                    torch.Size([entry.numel]),
                    [ChunkStorageMetadata(torch.Size([start]), torch.Size([n])) for start, n, _ in entry.pieces],
                )
                for name, entry in self.manifest.tensors.items()
            }
        )

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: object, **kwargs: object) -> None:
        """Do nothing: the constructor has set up the reader."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Sort the plan by file, so that each file is read once."""
        return LoadPlan(sorted(plan.items, key=self._file_of))

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Return the plans unchanged."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Fill the wanted pieces."""
        for item in plan.items:
            assert item.storage_index.index is not None, "planned so"
            saved = self._piece(item.storage_index.fqn, item.storage_index.index)
            start, length = item.storage_offsets[0], item.lengths[0]
            target = planner.resolve_tensor(item)
            target.copy_(saved[start : start + length])
            planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | PathLike[str]) -> bool:
        """Whether `checkpoint_id` is a URL."""
        return isinstance(checkpoint_id, str)

    def _file_of(self, item: ReadItem) -> int:
        assert item.storage_index.index is not None, "planned so"
        return self.entry(item.storage_index.fqn).pieces[item.storage_index.index][2]

    def _piece(self, name: str, index: int) -> Tensor:
        entry = self.entry(name)
        start, count, file = entry.pieces[index]
        piece = self._file(file).get(piece_key(name, start))
        if piece is None or piece.shape != (count,) or piece.dtype != entry.torch_dtype:
            where = storage.join(self.url, self.manifest.files[file].file)
            raise DataError(where, f"does not contain {name} with the manifest's type and size", SKIPPED)
        return piece

    def _file(self, number: int) -> dict[str, Tensor]:
        if number not in self._files:
            entry = self.manifest.files[number]
            where = storage.join(self.url, entry.file)
            content = artefacts.read_file(self.url, entry, SKIPPED)
            self._files[number] = parse_tensors(content, where, SKIPPED)
            if len(self._files) > _CACHED_FILES:
                self._files.popitem(last=False)
        return self._files[number]


def _into_files(items: list[WriteItem]) -> Iterator[list[WriteItem]]:
    """Group consecutive items of one kind into files."""
    run: list[WriteItem] = []
    size = 0
    for item in items:
        if run and (_kind(item) != _kind(run[0]) or size + _bytes(item) > _FILE_BYTES):
            yield run
            run, size = [], 0
        run.append(item)
        size += _bytes(item)
    if run:
        yield run


def _content(items: list[WriteItem], planner: SavePlanner) -> memoryview:
    """The content of a file of pieces. Host copies of device tensors are freed before it is written."""
    tensors = {piece_key(item.index.fqn, _start(item)): _tensor_of(item, planner) for item in items}
    require_finite(tensors.items())
    return tensor_file(tensors)


def _kind(item: WriteItem) -> str:
    return item.index.fqn.split("/", 1)[0]


def _start(item: WriteItem) -> int:
    assert item.index.offset is not None, "planned so"
    return item.index.offset[0]


def _bytes(item: WriteItem) -> int:
    assert item.tensor_data is not None, "only tensors are planned"
    return item.tensor_data.chunk.sizes[0] * item.tensor_data.properties.dtype.itemsize


def _tensor_of(item: WriteItem, planner: SavePlanner) -> Tensor:
    tensor = planner.resolve_data(item)
    assert isinstance(tensor, Tensor), "only tensors are planned"
    return host_memory(tensor).contiguous()


def _entry(metadata: Metadata, name: str, pieces: list[tuple[int, int, int]]) -> TensorEntry:
    saved = metadata.state_dict_metadata[name]
    assert isinstance(saved, TensorStorageMetadata), "only tensors are planned"
    return TensorEntry(str(saved.properties.dtype).removeprefix("torch."), saved.size[0], tuple(pieces))
