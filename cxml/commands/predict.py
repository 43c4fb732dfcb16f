"""Predict the labels of texts with a trained model.

python -m cxml.predict runs/quickstart texts.txt --output predictions
python -m cxml.predict runs/quickstart texts.txt --output predictions --k 50 --threshold micro-f1
python -m cxml.predict runs/quickstart s3://bucket/texts.parquet --output s3://bucket/out --format parquet --k 10
echo "heart attack of the front wall" | python -m cxml.predict runs/quickstart - --explain
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from cxml import urls
from cxml.cli import run_tool
from cxml.config import PrecisionChoice
from cxml.console import write_out
from cxml.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PredictCommand:
    """Predict the labels of texts with a trained model.

    The output is a folder of part files in the order of the texts, and a manifest.json once it is whole. The same
    command goes on where a stopped one was.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run's output, its model folder, a checkpoint, or an exported folder; path or fsspec URL."""
    texts: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TEXTS")]
    """File of texts: lines (.txt), .jsonl, .csv or .parquet, perhaps compressed; path or fsspec URL; - is standard
    input."""
    output: str = "-"
    """Folder to write; - prints JSON lines."""
    format: Literal["jsonl", "parquet", "npz"] = "jsonl"
    """Form of the predictions; npz are scipy's sparse matrices of scores, texts x labels."""
    form: Literal["auto", "text", "jsonl", "csv", "parquet"] = "auto"
    """Form of the texts; auto goes by the file's name."""
    text_column: str = "text"
    """Column of the text."""
    id_column: str = ""
    """Column of a key that goes with the prediction; empty: none."""
    k: int = 5
    """Labels per text, at most."""
    threshold: str = ""
    """Only labels whose score is at least this: a number from 0 to 1, or the name of a threshold that was chosen for
    the model on validation texts (micro-f1, macro-f1, precision). Empty: no threshold."""
    calibrated: bool = False
    """Give calibrated probabilities as scores, where validation texts were there to fit them on."""
    beam: tuple[int, ...] = ()
    """Nodes that each level of the tree above the labels hands down, one per such level; empty: as in training."""
    explain: bool = False
    """Show the way through the tree to each label, with the probability of every cluster on it."""
    allowed: str = ""
    """File with a label name per line: only these are predicted. Empty: all."""
    excluded: str = ""
    """File with a line `row label` (ids from 0) for each label that a text must not get, such as the LF data sets'
    filter_labels_test.txt."""
    rows: Literal["stored", "fp32", "bf16", "fp8", "int8"] = "stored"
    """Number format of the label rows in memory."""
    memory_map: bool = False
    """Leave the label rows of an exported folder on the disk, mapped into memory."""
    batch_size: int = 128
    """Texts per batch."""
    precision: PrecisionChoice | None = None
    """Number format in which the encoder computes; auto: bf16 where the device computes fast in it, else fp32. None: as
    the run's evaluate.precision says."""
    part_rows: int = 16384
    """Texts per part file."""
    engine: Literal["local", "ray"] = "local"
    """local: on this machine; ray: by Ray Data's actors on the cluster of RAY_ADDRESS, or one that is started here for
    the while. Model, texts and output must then be where all of them can reach them."""
    processes: int = 1
    """local: processes that share the label rows, for a head that does not fit one."""
    ray_workers: int = 0
    """ray: actors, each with all label rows; 0: one per GPU if they use any, else one per CPU but one."""
    ray_device: Literal["auto", "cpu", "gpu"] = "auto"
    """ray: what each actor computes on; auto: a GPU where the cluster has any."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0, or 2 if something was refused or failed in a way that cxml names."""
    return run_tool(PredictCommand, _predict, "python -m cxml.predict", arguments, description=__doc__)


def _predict(command: PredictCommand) -> None:
    from cxml import ray_cluster  # noqa: PLC0415  the heavy libraries
    from cxml.batch_prediction import PredictionJob, predict_file, predict_stream  # noqa: PLC0415
    from cxml.formats import TextSource  # noqa: PLC0415
    from cxml.prediction import parse_threshold  # noqa: PLC0415

    source = TextSource(
        url=command.texts, form=command.form, text_column=command.text_column, id_column=command.id_column
    )
    job = PredictionJob(
        model=command.model, source=source, output=command.output, format=command.format, k=command.k,
        threshold=parse_threshold(command.threshold), calibrated=command.calibrated,
        beam=command.beam, rows=None if command.rows == "stored" else command.rows, memory_map=command.memory_map,
        batch_size=command.batch_size, precision=command.precision, part_rows=command.part_rows,
        allowed=command.allowed, excluded=command.excluded, explain=command.explain,
    )  # fmt: skip
    if command.output == "-":
        if command.format != "jsonl" or command.engine != "local" or command.processes != 1:
            raise ConfigError("--output", "-", "prints JSON lines from one process only", "Name a folder.")
        for content in predict_stream(job):
            write_out(content)
        return
    if command.engine == "ray":
        ray_cluster.require_ray("--engine")
    num_texts = predict_file(
        job, processes=command.processes, on_ray=command.engine == "ray", ray_workers=command.ray_workers,
        ray_device=command.ray_device,
    )  # fmt: skip
    texts = "1 text" if num_texts == 1 else f"{num_texts:,} texts"
    print(f"{texts} predicted: {urls.masked(command.output)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
