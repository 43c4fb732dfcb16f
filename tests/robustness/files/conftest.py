"""One small finished run, and its five kinds of folders."""

import dataclasses
import socket
from pathlib import Path

import pytest
from support.runs import make_encoder, small_config

from cxml import pipeline
from cxml.checkpoint import list_checkpoints
from cxml.commands import export


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A data set, a tree, a checkpoint, a model and an export, by kind."""
    root = tmp_path_factory.mktemp("folders")
    evaluate = {"batch_size": 64, "baseline": False, "examples": 0}
    config = small_config(root / "out", make_encoder(root / "encoder"), train={"epochs": 1}, evaluate=evaluate)
    checkpoint = dataclasses.replace(config.checkpoint, every_minutes=0.0, every_steps=22, keep_last=1)
    pipeline.run(dataclasses.replace(config, checkpoint=checkpoint))
    assert export.main([str(root / "out"), str(root / "export")]) == 0
    (saved,) = list_checkpoints(str(root / "out/checkpoints"))
    return {
        "data": root / "out/data", "tree": root / "out/tree", "checkpoint": Path(saved.url),
        "model": root / "out/model", "export": root / "export",
    }  # fmt: skip


@pytest.fixture
def no_network(monkeypatch):
    """An attempt to reach anything fails the test, and transformers believes that it may try."""

    def refuse(*_):
        pytest.fail("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
