"""Whole runs on minimal data, one after the other in one process."""

import json
import traceback
from pathlib import Path

from cxml.config import config_from_dict


def write_rows(folder: Path, num_labels: int, num_texts: int) -> Path:
    """Write both splits as JSON lines in which every label occurs. Returns the folder."""
    folder.mkdir(parents=True)
    rows = [{"text": f"word{i} text", "labels": [f"n{i % num_labels}"]} for i in range(num_texts)]
    for label in range(num_texts, num_labels):
        rows[label % num_texts]["labels"].append(f"n{label}")
    for split in ("train", "test"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def small_values(folder: Path, encoder: str, raw: Path, **sections: dict) -> dict:
    """The values of a config with few steps. `sections` add fields."""
    values = {
        "auto": [],
        "output": str(folder),
        "data": {"source": {"kind": "jsonl", "path": str(raw)}, "max_length": 8},
        "model": {"encoder": encoder},
        "train": {"precision": "fp32", "epochs": 1, "batch_size": 8, "threads_per_worker": 1},
        "checkpoint": {"every_minutes": 0},
        "evaluate": {"precision": "fp32"},
    }
    for name, fields in sections.items():
        values[name] = {**values.get(name, {}), **fields}
    return values


def here(work, arguments, num_workers):
    """A `RunJob` that runs in this process, the only one of its group."""
    return work(*arguments)


def run_all(values: dict[str, dict]) -> dict[str, dict]:
    """The report of each run, with the labels `predicted` for the text `word0 text`; or the `error` of the run."""
    from cxml import pipeline
    from cxml.parallel import distributed
    from cxml.prediction import Predictor

    found = {}
    with distributed(threads=1):
        for name, each in values.items():
            try:
                report = pipeline.run(config_from_dict(each), run_job=here)
                again = pipeline.evaluate_again(config_from_dict(each), run_job=here)
                predicted = Predictor.from_checkpoint(each["output"]).predict(["word0 text"], 5)
                found[name] = {**report, "again": again["levels"], "predicted": predicted.labels[0].tolist()}
            except Exception:
                found[name] = {"error": traceback.format_exc()}
    return found
