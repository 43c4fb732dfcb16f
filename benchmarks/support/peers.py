"""Venvs of the systems that benchmarks compare with, each apart from all others."""

import subprocess
import sys
from pathlib import Path

PEERS_FOLDER = Path.home() / ".cache" / "cxml-peers"
PECOS = ["libpecos==1.2.8", "numpy<2", "scipy<1.14", "scikit-learn<1.6"]
XR_TRANSFORMER = [*PECOS, "torch==2.13.0", "transformers==4.46.3", "sentencepiece", "protobuf"]
OMIKUJI = ["omikuji==0.5.2", "cffi", "milksnake", "numpy", "scipy", "scikit-learn"]


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
