"""Serve a trained model over HTTP.

python -m cxml.serve runs/quickstart
curl -H 'Content-Type: application/json' -d '{"texts": ["a broken wrist"], "k": 3}' http://127.0.0.1:8000/predict
CXML_SERVE_TOKEN=secret python -m cxml.serve s3://bucket/model --host 0.0.0.0 --replicas 4
"""

from __future__ import annotations

import dataclasses
import math
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from cxml import extras
from cxml.cli import run_tool
from cxml.config import PredictionPrecision
from cxml.errors import ConfigError
from cxml.serving import ServeOptions

TOKEN_VARIABLE = "CXML_SERVE_TOKEN"


@dataclass(frozen=True, kw_only=True)
class ServeCommand:
    """Serve a trained model over HTTP until SIGINT or SIGTERM.

    POST /predict takes {"texts": [...], "k": 5, "threshold": null, "explain": false}. /openapi.json describes the
    interface, and / is a web page to try it. /health and /ready are for supervisors, /metrics is for Prometheus. If the
    environment variable CXML_SERVE_TOKEN is set, predictions need it as a bearer token. SIGHUP reloads the model
    from the same location.
    """

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run's output, its model folder, a checkpoint, or an exported folder; path or fsspec URL."""
    host: str = "127.0.0.1"
    """Address to listen on. An address that other machines can reach, such as 0.0.0.0, requires a token."""
    port: int = 8000
    """Port to listen on."""
    engine: Literal["auto", "local", "ray"] = "auto"
    """local: the model runs in this process. ray: replicas of the model run on the Ray cluster of RAY_ADDRESS, or on a
    temporary local cluster. auto: ray if RAY_ADDRESS is set or there is more than one replica, else local."""
    replicas: int = 1
    """Number of processes with the model; more than one requires the engine ray."""
    cpus: float | None = None
    """local: threads of the model; the default is OMP_NUM_THREADS, or all cores. ray: CPUs that each replica reserves;
    the default is 1."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """Device of the model. auto: a GPU if there is one, on this machine or on the Ray cluster. If there are more
    replicas than GPUs, replicas share them."""
    rows: Literal["stored", "fp32", "bf16", "fp8", "int8"] = "stored"
    """Number format of the label rows in memory."""
    memory_map: bool = False
    """Leave the label rows of an exported folder on disk and map them into memory. The replicas of a machine share
    them."""
    calibrated: bool = False
    """Return calibrated probabilities as scores. Requires a model whose run had validation texts."""
    precision: PredictionPrecision | None = None
    """Number format in which the encoder computes. `auto`: bf16 if the device computes fast in it, else fp32. `int8`:
    for CPUs without fast bf16; labels differ slightly; requires the extra onnx. By default, the run's
    evaluate.precision."""
    limits: Annotated[ServeOptions, tyro.conf.arg(name="")] = field(default_factory=ServeOptions)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code: 0, or 2 after an error of cxml."""
    return run_tool(ServeCommand, _run, "python -m cxml.serve", arguments)


def _run(command: ServeCommand) -> None:
    on_ray = _is_on_ray(command)
    needed = ("serve", "serve-ray") if on_ray else ("serve",)  # the second includes the first
    modules = [module for extra in needed for module in extras.EXTRAS[extra]]
    extras.require("cxml.serve", "the server", *modules, extra=needed[-1])
    from cxml.serving.models import ModelSpec  # noqa: PLC0415  the heavy libraries
    from cxml.serving.running import serve_until_signalled  # noqa: PLC0415

    options = dataclasses.replace(command.limits, token=os.environ.get(TOKEN_VARIABLE, "").strip())
    rows = None if command.rows == "stored" else command.rows
    spec = ModelSpec(command.model, rows, command.memory_map, command.precision, command.calibrated)
    if on_ray:
        from cxml.serving.ray_engine import ray_engine  # noqa: PLC0415

        cpus = 1.0 if command.cpus is None else command.cpus
        opened = ray_engine(spec, options, num_replicas=command.replicas, cpus=cpus, device=command.device)
    else:
        from cxml.serving.local_engine import LocalEngine  # noqa: PLC0415

        opened = nullcontext(LocalEngine(spec, options, cpus=command.cpus, device=command.device))
    serve_until_signalled(opened, command.model, options, host=command.host, port=command.port)


def _is_on_ray(command: ServeCommand) -> bool:
    """Whether the command uses Ray.

    Raises:
        ConfigError: the command requests several replicas, or no CPU, with the local engine.
    """
    if command.replicas < 1:
        raise ConfigError("--replicas", command.replicas, "must be at least 1", "Leave it out for one.")
    if command.cpus is not None and not 0 < command.cpus < math.inf:
        raise ConfigError("--cpus", command.cpus, "must be a number above 0", "Leave it out for the default.")
    if command.engine == "local" and command.replicas > 1:
        raise ConfigError(
            "--replicas", command.replicas, "the local engine is one process",
            "Use --engine ray for several; --cpus sets the threads of one.",
        )  # fmt: skip
    return command.engine == "ray" or (
        command.engine == "auto" and (command.replicas > 1 or bool(os.environ.get("RAY_ADDRESS")))
    )


if __name__ == "__main__":
    sys.exit(main())
