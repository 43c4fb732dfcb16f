"""The systems that benchmarks compare with, each in a venv of its own."""

import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parent.parent / "peers"
PEERS_FOLDER = Path.home() / ".cache" / "cxml-peers"
PECOS = ["libpecos==1.2.8", "numpy<2", "scipy<1.14", "scikit-learn<1.6"]
XR_TRANSFORMER = [*PECOS, "torch==2.13.0", "transformers==4.46.3", "sentencepiece", "protobuf"]
OMIKUJI = ["omikuji==0.5.2", "cffi", "milksnake", "numpy", "scipy", "scikit-learn"]
LINEAR = {
    "omikuji, Parabel": ("parabel", "omikuji", OMIKUJI),
    "omikuji, Bonsai": ("bonsai", "omikuji", OMIKUJI),
    "PECOS XR-Linear": ("xr-linear", "pecos", PECOS),
}
"""Peers on tf-idf: how the scripts call each, its venv and what is in it."""


def linear_command(folder: Path, name: str, script: str = "linear_models.py") -> list[str]:
    """The beginning of the command that has one of `LINEAR` do what a script does."""
    kind, venv, packages = LINEAR[name]
    return [peer_python(folder, venv, packages), str(SCRIPTS / script), kind]


def peer_python(folder: Path, name: str, packages: list[str]) -> str:
    """The interpreter of the venv `folder/name`, which is made where it is missing.

    Args:
        folder: of all venvs.
        name: of this one.
        packages: the peer, installed without what it asks for, then all that it needs.
    """
    venv = folder / name
    python = venv / "bin" / "python"
    if not (venv / "ready").exists():
        print(f"Installing {packages[0]} into {venv}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", *packages[1:]], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", packages[0]], check=True)
        (venv / "ready").touch()
    return str(python)
