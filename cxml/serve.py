"""Serve a trained model over HTTP, with Ray Serve.

python -m cxml.serve runs/quickstart
curl -H 'Content-Type: application/json' -d '{"texts": ["a broken wrist"], "k": 3}' http://127.0.0.1:8000/predict
CXML_SERVE_TOKEN=secret python -m cxml.serve s3://bucket/model --host 0.0.0.0 --replicas 4
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from cxml import extras
from cxml.cli import run_tool
from cxml.serving import ServeOptions

TOKEN_VARIABLE = "CXML_SERVE_TOKEN"


@dataclass(frozen=True, kw_only=True)
class ServeCommand:
    """Serve a trained model over HTTP until SIGINT or SIGTERM.

    POST /predict takes {"texts": [...], "k": 5, "explain": false}; /openapi.json documents it, / is a page to try it
    on, /health and /ready are for supervisors, /metrics for Prometheus. With the environment variable CXML_SERVE_TOKEN
    predictions need it as a bearer token. Runs on the Ray cluster of RAY_ADDRESS, or on one of its own.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run's output, its model folder, a checkpoint, or an exported folder; path or fsspec URL."""
    host: str = "127.0.0.1"
    """Address to listen on. One that other machines reach, such as 0.0.0.0, needs a token."""
    port: int = 8000
    """Port to listen on."""
    replicas: int = 1
    """Processes, each with the model."""
    cpus: float = 1.0
    """CPUs that each of them reserves."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """What each of them computes on; auto: a GPU where the cluster has any. More processes than GPUs share them."""
    rows: Literal["stored", "fp32", "bf16", "fp8", "int8"] = "stored"
    """Number format of the label rows in memory."""
    memory_map: bool = False
    """Leave the label rows of an exported folder on the disk, mapped into memory; replicas of a machine share them."""
    precision: Literal["auto", "fp32", "bf16"] | None = None
    """Number format in which the encoder computes; auto: bf16 where the device computes fast in it, else fp32. None: as
    the run's evaluate.precision says."""
    limits: Annotated[ServeOptions, tyro.conf.arg(name="")] = field(default_factory=ServeOptions)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0, or 2 if something was refused or failed in a way that cxml names."""
    return run_tool(ServeCommand, _run, "python -m cxml.serve", arguments)


def _run(command: ServeCommand) -> None:
    extras.require("cxml.serve", "the server", *extras.EXTRAS["serve"], extra="serve")
    from cxml.serving.running import serve_until_signalled  # noqa: PLC0415  the heavy libraries
    from cxml.serving.service import ModelPlace  # noqa: PLC0415

    options = dataclasses.replace(command.limits, token=os.environ.get(TOKEN_VARIABLE, "").strip())
    rows = None if command.rows == "stored" else command.rows
    place = ModelPlace(command.model, rows, command.memory_map, command.precision)
    serve_until_signalled(
        place, options, host=command.host, port=command.port, num_replicas=command.replicas, cpus=command.cpus,
        device=command.device,
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
