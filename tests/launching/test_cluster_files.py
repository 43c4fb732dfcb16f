"""The files for KubeRay and for Ray's cluster launcher contain only fields that their readers know.

Oracles: a schema of the used fields of ray.io/v1 written here, Ray's own JSON schema, and cxml's command line.
"""

import json
import shlex
from pathlib import Path

import jsonschema
import pytest
import ray.autoscaler
import yaml
from support.launching import ROOT

from cxml.cli import parse_command
from cxml.commands.train import TrainCommand

KUBERAY = ROOT / "launch" / "kuberay"


def closed(required, **properties):
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


WHOLE = {"type": "integer", "minimum": 0}
TEXT = {"type": "string"}
TEXTS = {"type": "object", "additionalProperties": TEXT}
QUANTITIES = {"type": "object", "additionalProperties": {"type": "string", "pattern": r"^\d+(m|[KMGT]i?)?$"}}
CONTAINER = closed(
    ["name", "image"],
    name=TEXT,
    image=TEXT,
    envFrom={"type": "array", "items": closed(["secretRef"], secretRef=closed(["name"], name=TEXT))},
    resources=closed([], requests=QUANTITIES, limits=QUANTITIES),
    ports={"type": "array", "items": closed(["containerPort"], containerPort=WHOLE, name=TEXT)},
    volumeMounts={"type": "array", "items": closed(["name", "mountPath"], name=TEXT, mountPath=TEXT)},
)
VOLUME = closed(["name"], name=TEXT, emptyDir=closed([], medium=TEXT, sizeLimit=TEXT))
POD = closed(["spec"], spec=closed(["containers"], containers={"type": "array", "items": CONTAINER},
                                   volumes={"type": "array", "items": VOLUME}))  # fmt: skip
WORKERS = closed(
    ["groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"],
    groupName=TEXT, replicas=WHOLE, minReplicas=WHOLE, maxReplicas=WHOLE, rayStartParams=TEXTS, template=POD,
)  # fmt: skip
CLUSTER = closed(
    ["headGroupSpec"],
    rayVersion=TEXT,
    headGroupSpec=closed(["rayStartParams", "template"], rayStartParams=TEXTS, template=POD),
    workerGroupSpecs={"type": "array", "items": WORKERS},
)
JOB = closed(
    ["entrypoint", "rayClusterSpec"],
    entrypoint=TEXT, shutdownAfterJobFinishes={"type": "boolean"}, ttlSecondsAfterFinished=WHOLE, backoffLimit=WHOLE,
    rayClusterSpec=CLUSTER,
)  # fmt: skip
"""The fields that the files use, with their types in version ray.io/v1 of KubeRay's resources."""


def resource(kind, spec):
    return closed(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": "ray.io/v1"}, kind={"const": kind}, metadata=closed(["name"], name=TEXT), spec=spec,
    )  # fmt: skip


@pytest.mark.parametrize(("file", "kind", "spec"), [("rayjob", "RayJob", JOB), ("raycluster", "RayCluster", CLUSTER)])
def test_kuberays_resources_hold_its_fields_and_no_others(file, kind, spec):
    jsonschema.validate(yaml.safe_load((KUBERAY / f"{file}.yaml").read_text()), resource(kind, spec))


def test_the_rayjobs_command_is_one_that_training_takes():
    job = yaml.safe_load((KUBERAY / "rayjob.yaml").read_text())
    python, module, name, *options = shlex.split(job["spec"]["entrypoint"])
    assert (python, module, name) == ("python", "-m", "cxml.train")
    settings = parse_command(TrainCommand, "train", options).settings
    workers = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    gpus = int(workers["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
    assert settings.train.num_workers == gpus * workers["maxReplicas"]


def test_rays_own_cluster_file_is_one_that_ray_takes():
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(yaml.safe_load((ROOT / "launch" / "ray" / "cluster.yaml").read_text()), schema)
