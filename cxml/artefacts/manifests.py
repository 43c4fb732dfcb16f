"""Manifests: JSON objects that contain their own checksum and are written last."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, TypeVar

import dacite

from cxml import storage
from cxml.artefacts.files import FileEntry, entry_problem
from cxml.artefacts.json_objects import read_object
from cxml.errors import DataError

MANIFEST = "manifest.json"
_CHECKSUM = "checksum"

_T = TypeVar("_T")


def write_manifest(folder: str, values: Mapping[str, Any]) -> None:
    """Write `values` (JSON-serialisable) and their checksum as the folder's manifest, after all other files."""
    storage.write_json(storage.join(folder, MANIFEST), {**values, _CHECKSUM: _checksum(values)})


def file_entries(folder: str) -> dict[str, dict[str, Any]]:
    """The entry (size and checksum) of each file in `folder`, by relative path, as a manifest lists them."""
    return {
        name: {"bytes": size, "sha256": storage.sha256(storage.join(folder, name))}
        for name, size in storage.file_sizes(folder).items()
    }


def read_manifest(folder: str, remedy: str, **wanted: object) -> dict[str, Any]:
    """The values of the folder's manifest. Manifests of earlier releases, without a checksum, are accepted.

    Args:
        folder: path or URL.
        remedy: how to fix a rejected manifest, for the error message.
        **wanted: fields with the values that they must have, such as `format` and `version`.

    Raises:
        FileNotFoundError: the folder has no manifest.
        DataError: the manifest is not a plain JSON object within limits, differs from `wanted`, or is damaged.
    """
    file = storage.join(folder, MANIFEST)
    values = read_object(folder, MANIFEST, remedy)
    for name, value in wanted.items():
        if type(values.get(name)) is not type(value) or values[name] != value:
            found = repr(values.get(name))[:80]
            raise DataError(file, f"{name} is {found}, but this version of cxml reads {value!r}", remedy)
    checksum = values.pop(_CHECKSUM, None)
    if checksum is not None and checksum != _checksum(values):
        raise DataError(file, "is damaged: its checksum does not match its values", remedy)
    return values


def format_of(folder: str, remedy: str) -> object:
    """The `format` in the folder's manifest; None if the manifest or the field is missing.

    Raises:
        DataError: the manifest is not a plain JSON object within limits.
    """
    try:
        return read_object(folder, MANIFEST, remedy).get("format")
    except FileNotFoundError:
        return None


def parse_as(kind: type[_T], values: Mapping[str, Any], file: str, remedy: str) -> _T:
    """Build a dataclass from the values of a JSON object with exactly its keys and types.

    Raises:
        DataError: a field is missing, unknown or has another type.
    """
    try:
        return dacite.from_dict(kind, values, dacite.Config(cast=[tuple], strict=True))
    except (dacite.DaciteError, TypeError, ValueError) as error:
        raise DataError(file, f"a field is invalid ({str(error)[:500]})", remedy) from error


def named_entries(files: object, file: str, remedy: str) -> dict[str, FileEntry]:
    """Parse a manifest's `files`: an object that maps names to `bytes` and `sha256`, with at least one name.

    Raises:
        DataError: `files` has another form, or a name, size or checksum is not valid.
    """
    if not isinstance(files, dict) or not files or not all(isinstance(facts, dict) for facts in files.values()):
        raise DataError(file, "files is not an object with file names as keys", remedy)
    entries = {name: parse_as(FileEntry, {"file": name, **facts}, file, remedy) for name, facts in files.items()}
    for entry in entries.values():
        if problem := entry_problem(entry):
            raise DataError(file, problem, remedy)
    return entries


def _checksum(values: Mapping[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
