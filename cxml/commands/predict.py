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
from cxml.config import PredictionPrecision
from cxml.console import counted, write_out
from cxml.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PredictCommand:
    """Predict the labels of texts with a trained model.

    The output is a folder of part files in the order of the texts, with a manifest.json once it is complete. To resume
    an interrupted prediction, run the same command again.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run's output, its model folder, a checkpoint, or an exported folder; path or fsspec URL."""
    texts: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TEXTS")]
    """File of texts: .txt (one text per line), or a table (.csv, .tsv, .jsonl, .json, .parquet, .arrow), compressed or
    not; path or fsspec URL. - is standard input."""
    output: str = "-"
    """Folder to write; - prints JSON lines."""
    format: Literal["jsonl", "parquet", "npz"] = "jsonl"
    """Format of the predictions; `npz` is a SciPy sparse matrix of scores, texts x labels."""
    form: Literal["auto", "text", "csv", "tsv", "jsonl", "json", "parquet", "arrow"] = "auto"
    """Format of the texts; `auto` depends on the file name."""
    text_column: str = "text"
    """Column with the text, or several to join, such as title+abstract. If the file has no column `text`, its only
    column or the one with a usual name is used. Not for .txt files."""
    id_column: str = ""
    """Column with a key that is copied to the predictions; empty: none. Not for .txt files."""
    k: int = 5
    """Maximum number of labels per text."""
    threshold: str = ""
    """Minimum score of a label: a number from 0 to 1, or the name of a threshold that was chosen for the model on
    validation texts (micro-f1, macro-f1, precision). Empty: no threshold."""
    calibrated: bool = False
    """Return calibrated probabilities as scores. Requires a model whose run had validation texts."""
    beam: tuple[int, ...] = ()
    """Number of clusters that each level of the tree selects, one value per level above the labels; empty: as in
    training."""
    explain: bool = False
    """Show the path through the tree to each label, with the probability of each cluster."""
    allowed: str = ""
    """File with one label name per line; only these labels are predicted. Empty: all labels."""
    excluded: str = ""
    """File with a line `row label` (ids from 0) for each label that a text must not get, such as filter_labels_test.txt
    of the LF data sets."""
    rows: Literal["stored", "fp32", "bf16", "fp8", "int8"] = "stored"
    """Number format of the label rows in memory."""
    memory_map: bool = False
    """Leave the label rows of an exported folder on disk and map them into memory."""
    batch_size: int = 128
    """Number of texts per batch."""
    precision: PredictionPrecision | None = None
    """Number format in which the encoder computes. `auto`: bf16 if the device computes fast in it, else fp32. `int8`:
    for CPUs without fast bf16; labels differ slightly; requires the extra onnx. By default, the run's
    evaluate.precision."""
    part_rows: int = 16384
    """Number of texts per part file."""
    engine: Literal["local", "ray"] = "local"
    """local: on this machine. ray: with Ray Data actors on the cluster of RAY_ADDRESS, or on a temporary local cluster.
    All actors must be able to access model, texts and output."""
    processes: int = 1
    """local: number of processes that share the label rows, for models whose rows do not fit in one process."""
    ray_workers: int = 0
    """ray: number of actors, each with all label rows; 0: one per GPU if they use GPUs, else one per CPU except one."""
    ray_device: Literal["auto", "cpu", "gpu"] = "auto"
    """ray: device of each actor; auto: a GPU if the cluster has any."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code: 0, or 2 after an error of cxml."""
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
            raise ConfigError("--output", "-", "prints JSON lines from one process only", "Give a folder.")
        for content in predict_stream(job):
            write_out(content)
        return
    if command.engine == "ray":
        ray_cluster.require_ray("--engine")
    num_texts = predict_file(
        job, processes=command.processes, on_ray=command.engine == "ray", ray_workers=command.ray_workers,
        ray_device=command.ray_device,
    )  # fmt: skip
    print(f"{counted(num_texts, 'text')} predicted: {urls.masked(command.output)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
