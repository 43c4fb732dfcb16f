"""Small random changes of folders with manifests, as damage or an attacker would make them."""

import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

ODD_VALUES = [
    None, True, False, 0, -1, 1, 2, 10**9, 2**31 - 1, -(2**31), 2**63, 10**40, 0.5, 1e308, float("nan"), float("inf"),
    "", "x", "../x", "/etc/passwd", "/dev/zero", "owner/kernel:fn", "\ud800", "a" * 5000, [], {}, [[]],
    {"a": 1}, [1, 2, 3],
]  # fmt: skip
ODD_WORDS = [2**31 - 1, -2_000_000, -1, 0, 1, 0x7FC00000, 0x7F800000, 2**31]


def copy_and_mutate(source: Path, target: Path, draw: random.Random) -> tuple[str, bool]:
    """Copy a folder with one change. Returns a description, and whether the checksums were updated to match."""
    shutil.copytree(source, target)
    files = sorted(path for path in target.rglob("*") if path.is_file())
    jsons = [path for path in files if path.suffix == ".json" and path.name != "tokenizer.json"]
    change = draw.choice(CHANGES)
    file = draw.choice(jsons if change in JSON_CHANGES else files)
    told = f"{change.__name__} of {file.relative_to(target)}: {change(file, draw)}"
    fits = draw.random() < 0.5 and file.is_file() and not file.is_symlink()
    if fits:
        make_checksums_fit(target)
    return told, fits


def flip_a_bit(file: Path, draw: random.Random) -> str:
    content = bytearray(file.read_bytes())
    place = draw.randrange(8 * len(content))
    content[place // 8] ^= 1 << place % 8
    file.write_bytes(content)
    return f"bit {place}"


def write_a_word(file: Path, draw: random.Random) -> str:
    content = bytearray(file.read_bytes())
    place, word = draw.randrange(0, max(1, len(content) - 4), 4), draw.choice(ODD_WORDS)
    content[place : place + 4] = (word % 2**32).to_bytes(4, "little")
    file.write_bytes(content)
    return f"{word} at {place}"


def cut_off(file: Path, draw: random.Random) -> str:
    size = draw.randrange(file.stat().st_size)
    os.truncate(file, size)
    return f"after {size}"


def append(file: Path, draw: random.Random) -> str:
    with file.open("ab") as stream:
        stream.write(draw.randbytes(draw.choice([1, 64, 5000])))
    return ""


def clear_a_range(file: Path, draw: random.Random) -> str:
    content = bytearray(file.read_bytes())
    start = draw.randrange(len(content))
    stop = min(len(content), start + draw.choice([8, 100, 10_000]))
    content[start:stop] = bytes(stop - start)
    file.write_bytes(content)
    return f"{start}..{stop}"


def remove(file: Path, draw: random.Random) -> str:
    file.unlink()
    return ""


def replace_by_a_special_file(file: Path, draw: random.Random) -> str:
    kind = draw.choice(["link", "loop", "zero", "pipe", "folder"])
    kept = file.parent.parent / f"{file.name}.kept"
    file.rename(kept)
    match kind:
        case "link":
            file.symlink_to(kept)
        case "loop":
            file.symlink_to(file)
        case "zero":
            file.symlink_to("/dev/zero")
        case "pipe":
            os.mkfifo(file)
        case "folder":
            file.mkdir()
    return kind


def change_a_value(file: Path, draw: random.Random) -> str:
    values = json.loads(file.read_text())
    place, key = draw.choice(places(values))
    before, place[key] = place[key], draw.choice(ODD_VALUES)
    file.write_text(json.dumps(values))
    return f"{key}: {str(before)[:60]} -> {str(place[key])[:40]!r}"


def remove_a_value(file: Path, draw: random.Random) -> str:
    values = json.loads(file.read_text())
    place, key = draw.choice(places(values))
    del place[key]
    file.write_text(json.dumps(values))
    return str(key)


def add_a_value(file: Path, draw: random.Random) -> str:
    values = json.loads(file.read_text())
    objects = [values, *(place[key] for place, key in places(values) if isinstance(place[key], dict))]
    key = draw.choice(["auto_map", "attn_implementation", "_attn_implementation_internal", "quantization_config", "x"])
    value = draw.choice([*ODD_VALUES, {"AutoModel": "owner/code--model.Model"}])
    draw.choice(objects)[key] = value
    file.write_text(json.dumps(values))
    return f"{key}: {str(value)[:60]}"


def repeat_a_key(file: Path, draw: random.Random) -> str:
    text = file.read_text().rstrip().removesuffix("}")
    key = draw.choice(list(json.loads(file.read_text())))
    file.write_text(f"{text}, {json.dumps(key)}: {json.dumps(draw.choice(ODD_VALUES))}}}")
    return key


def nest_deeply(file: Path, draw: random.Random) -> str:
    values = json.loads(file.read_text())
    place, key = draw.choice(places(values))
    place[key] = "@"
    depth = draw.choice([40, 900, 100_000])
    file.write_text(json.dumps(values).replace('"@"', "[" * depth + "]" * depth))
    return f"{key}, {depth} levels"


JSON_CHANGES = (change_a_value, remove_a_value, add_a_value, repeat_a_key, nest_deeply)
CHANGES: tuple[Callable[[Path, random.Random], str], ...] = (
    flip_a_bit, flip_a_bit, write_a_word, write_a_word, cut_off, append, clear_a_range, remove,
    replace_by_a_special_file, change_a_value, change_a_value, change_a_value, change_a_value, *JSON_CHANGES,
)  # fmt: skip


def places(values: object) -> list[tuple[dict | list, str | int]]:
    """Every value in nested containers, as (container, key)."""
    keys = list(values) if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else []
    return [(values, key) for key in keys] + [found for key in keys for found in places(values[key])]


def make_checksums_fit(folder: Path) -> None:
    """Update the sizes and checksums in every manifest of a folder, innermost first."""
    for file in sorted(folder.rglob("*.json"), key=lambda path: (-len(path.parts), path.name != "manifest.json")):
        if file.name not in ("manifest.json", "commit.json") or not file.is_file():
            continue
        try:
            values = json.loads(file.read_text())
            _fit(values, file.parent)
            if "checksum" in values:
                del values["checksum"]
                text = json.dumps(values, sort_keys=True, separators=(",", ":"))
                values["checksum"] = hashlib.sha256(text.encode()).hexdigest()
            file.write_text(json.dumps(values))
        except (ValueError, RecursionError, TypeError, OSError):
            continue  # too broken to update


def _fit(values: object, folder: Path) -> None:
    if isinstance(values, dict):
        if "manifest_sha256" in values:
            content = (folder / "manifest.json").read_bytes()
            values.update(manifest_bytes=len(content), manifest_sha256=hashlib.sha256(content).hexdigest())
        for name, value in values.items():
            if isinstance(value, dict) and {"bytes", "sha256"} <= value.keys():
                content = _content(folder, value.get("file", name))
                if content is not None:
                    value.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
            else:
                _fit(value, folder)
    elif isinstance(values, list):
        for value in values:
            _fit({"": value}, folder)


def _content(folder: Path, name: object) -> bytes | None:
    file = folder / str(name)
    is_inside = isinstance(name, str) and "\0" not in name and len(name) < 200 and file.is_file()
    return file.read_bytes() if is_inside and folder in file.resolve().parents else None
