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
"""Peers on tf-idf by name: argument of the scripts, name of the venv, packages of the venv."""


def linear_command(folder: Path, name: str, script: str = "linear_models.py") -> list[str]:
    """First words of the command that runs a script for one of `LINEAR`."""
    kind, venv, packages = LINEAR[name]
    return [peer_python(folder, venv, packages), str(SCRIPTS / script), kind]


def peer_python(folder: Path, name: str, packages: list[str]) -> str:
    """Return the interpreter of the venv `folder/name`, and make the venv if it is missing.

    Args:
        folder: folder of all venvs.
        name: name of this venv.
        packages: the peer, which is installed without its dependencies, then all packages that it needs.
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
