"""The rules that data sets, trees, checkpoints, models and exports share. Their readers add their own schema.

    folder/manifest.json   a bounded JSON object that carries its own checksum -> read_manifest
    folder/NAME            a regular file inside the folder with the listed size and SHA-256 -> read_file, MappedFile
    unfinished work        files that end with their own checksum -> read_sealed_table, unseal
    metrics.jsonl          complete lines of a growing file -> read_records
    Arrow files            uncompressed record batches of a known schema, without nulls -> read_batches

A folder may come from an untrusted source. Readers check each size that a file states against the file's real size
before they allocate memory for it.
"""

from cxml.artefacts.arrow import arrow_file, as_numpy, read_batches
from cxml.artefacts.files import FileEntry, entry_problem, local_file, open_file, read_file, verify_file
from cxml.artefacts.json_objects import MOST_JSON_BYTES, parse_object, read_json, read_object, read_records
from cxml.artefacts.manifests import (
    MANIFEST,
    file_entries,
    format_of,
    named_entries,
    parse_as,
    read_manifest,
    write_manifest,
)
from cxml.artefacts.mapped import MappedFile
from cxml.artefacts.sealed import read_sealed_table, unseal, write_sealed, write_sealed_table

__all__ = [
    "MANIFEST",
    "MOST_JSON_BYTES",
    "FileEntry",
    "MappedFile",
    "arrow_file",
    "as_numpy",
    "entry_problem",
    "file_entries",
    "format_of",
    "local_file",
    "named_entries",
    "open_file",
    "parse_as",
    "parse_object",
    "read_batches",
    "read_file",
    "read_json",
    "read_manifest",
    "read_object",
    "read_records",
    "read_sealed_table",
    "unseal",
    "verify_file",
    "write_manifest",
    "write_sealed",
    "write_sealed_table",
]
