"""A folder of a model's evidence. Its manifest lists the files, whose size and checksum are checked on reading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cxml import artefacts, storage
from cxml.artefacts import FileEntry
from cxml.checkpoint import parse_tensors, tensor_file
from cxml.errors import DataError


@dataclass(frozen=True)
class Folder:
    """A folder, the files in its manifest, and the remedy in error messages.

    Attributes:
        url: of the folder.
        entries: by path inside the folder.
        remedy: remedy in error messages.
        below: subfolder for `read` and the other methods, with a trailing slash; empty for the folder itself.
    """

    url: str
    entries: Mapping[str, FileEntry]
    remedy: str
    below: str = ""

    def inside(self, name: str) -> Folder:
        """The folder `name` in this one."""
        return replace(self, below=f"{self.below}{name}/")

    def names(self, prefix: str) -> list[str]:
        """Sorted names of the files here that start with `prefix`."""
        start = len(self.below)
        return sorted(name[start:] for name in self.entries if name.startswith(self.below + prefix))

    def where(self, name: str) -> str:
        """URL of a file."""
        return storage.join(self.url, self.below + name)

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            DataError: it is missing or damaged.
        """
        if self.below + name not in self.entries:
            raise DataError(self.url, f"its manifest does not list {self.below}{name}", self.remedy)
        return artefacts.read_file(self.url, self.entries[self.below + name], self.remedy)

    def read_tensors(self, name: str, kinds: Mapping[str, tuple[type, int]]) -> dict[str, np.ndarray]:
        """The tensors of a file, which must have exactly these names, types and numbers of dimensions.

        Raises:
            DataError: the file is missing or damaged, or holds other tensors.
        """
        tensors = parse_tensors(self.read(name), self.where(name), self.remedy)
        found = {name: (tensor.dtype, tensor.dim()) for name, tensor in tensors.items()}
        if found != {name: (_torch_type(kind), dimensions) for name, (kind, dimensions) in kinds.items()}:
            raise self.broken(name, f"must contain exactly the tensors {', '.join(kinds)} with the types of the format")
        return {name: tensor.numpy() for name, tensor in tensors.items()}

    def broken(self, name: str, problem: str) -> DataError:
        """The error for a file whose content is wrong."""
        return DataError(self.where(name), problem, self.remedy)


def write_tensors(file: str, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as a safetensors file."""
    tensors: dict[str, Tensor] = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    storage.write_atomic(file, tensor_file(tensors))


def are_bounds(bounds: np.ndarray, count: int, end: int) -> bool:
    """Whether int64 bounds split 0..`end` into `count` ranges."""
    return len(bounds) == count + 1 and bounds[0] == 0 and bounds[-1] == end and bool((np.diff(bounds) >= 0).all())


def _torch_type(kind: type) -> torch.dtype:
    return torch.from_numpy(np.zeros(0, kind)).dtype
