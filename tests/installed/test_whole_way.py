"""The installed package works by its commands alone: training on two processes, a stop, a resume, prediction, export.

Oracles: the package's metadata, the recorded steps, and the run's model against its export.
"""

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from support.runs import make_encoder, small_config

import cxml
from cxml.config import config_to_dict
from cxml.config_files import dump_config, load_config

pytestmark = pytest.mark.slow
TEXTS = ["iron deficiency anemia", "sickle-cell disease with crisis", "hereditary factor VIII deficiency"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the commands run: a config of two epochs, and texts to predict."""
    folder = tmp_path_factory.mktemp("installed")
    encoder = make_encoder(folder / "encoder")
    config = small_config(folder / "run", encoder, train={"num_workers": 2, "threads_per_worker": 1})
    (folder / "config.yaml").write_text(dump_config(config_to_dict(config)))
    (folder / "texts.txt").write_text("".join(f"{text}\n" for text in TEXTS))
    return folder


def command(*words):
    return [sys.executable, "-P", "-m", *words] if sys.version_info >= (3, 11) else [sys.executable, "-m", *words]


def run(folder, *words):
    done = subprocess.run(command(*words), cwd=folder, timeout=600, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def installed_files():
    """Names of the files that the installation has put on the path."""
    files = [str(file) for file in importlib.metadata.files("cxml") or ()]
    if not any(file.startswith("cxml/") for file in files):
        pytest.skip("an editable installation has no files of its own")
    return files


def installed(name):
    return Path(str(importlib.metadata.distribution("cxml").locate_file(name)))


def test_the_package_has_one_top_level_name_and_its_types_and_configs(installed_files):
    tops = {file.partition("/")[0] for file in installed_files if not file.startswith("..")}
    assert {top for top in tops if ".dist-info" not in top} == {"cxml"}
    assert {"cxml/py.typed", "cxml/configs/wordnet.yaml", "cxml/serving/page.html"} <= set(installed_files)


def test_the_imported_package_is_the_installed_one_with_its_version(installed_files):
    assert Path(cxml.__file__).samefile(installed("cxml/__init__.py"))
    assert cxml.__version__ == importlib.metadata.version("cxml")


def test_the_name_of_a_shipped_config_loads_the_installed_file(installed_files):
    assert load_config("wordnet") == load_config(str(installed("cxml/configs/wordnet.yaml")))
    assert load_config("wordnet") != load_config("icd10cm")


def test_the_console_script_is_installed(folder):
    script = Path(sys.executable).with_name("cxml.exe" if sys.platform == "win32" else "cxml")
    done = subprocess.run([str(script), "--version"], cwd=folder, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == f"cxml {cxml.__version__}"


def test_a_run_is_prepared_stopped_resumed_predicted_and_exported(folder):
    run(folder, "cxml.data_tools.prepare", "--config", "config.yaml")
    with subprocess.Popen(command("cxml.train", "--config", "config.yaml"), cwd=folder) as training:
        log = folder / "run" / "metrics.jsonl"
        while not (log.exists() and log.read_text().count("\n") >= 5) and training.poll() is None:
            time.sleep(0.05)
        os.kill(training.pid, signal.SIGTERM)
    assert training.returncode == 75
    begun = len(log.read_text().splitlines())
    run(folder, "cxml.train", "--config", "config.yaml")
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines() if '"train"' in line]
    assert begun > 0
    assert steps == list(range(1, len(steps) + 1)), "no step is done twice or left out"
    report = json.loads((folder / "run" / "report.json").read_text())
    assert report["levels"][-1]["P@1"] > 5
    run(folder, "cxml.export", "run", "exported")
    for model in ("run", "exported"):
        run(folder, "cxml.predict", model, "texts.txt", "--output", f"predicted-{model}")
    found = [cxml.Predictor.from_pretrained(folder / "exported").predict(TEXTS, k=3)]
    found.append(cxml.Predictor.from_checkpoint(folder / "run").predict(TEXTS, k=3))
    assert (found[0].labels == found[1].labels).all()


def test_one_process_trains_without_deepspeed_and_ray(folder):
    words = yaml.safe_load((folder / "config.yaml").read_text())
    words["output"], words["train"]["num_workers"], words["train"]["epochs"] = str(folder / "alone"), 1, 1
    (folder / "alone.yaml").write_text(dump_config(words))
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('deepspeed', 'ray', 'sklearn'))); "
        "from cxml.commands.train import main; sys.exit(main(['--config', 'alone.yaml']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, timeout=600, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "alone" / "report.json").exists()
