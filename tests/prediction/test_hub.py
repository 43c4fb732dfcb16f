"""What is refused where the hub cannot be reached."""

import huggingface_hub
import pytest

from cxml.errors import DataError
from cxml.prediction import Predictor, upload


def test_what_is_neither_a_folder_nor_a_repository_is_named(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("no such/owner/name", "nobody/nothing"):
        with pytest.raises(DataError, match=f"{name}: is neither an exported folder nor a repository"):
            Predictor.from_pretrained(name)


def test_an_upload_that_cannot_reach_the_hub_is_refused_by_name(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="me/mine: cannot be uploaded"):
        upload(str(tmp_path), "me/mine")
    with pytest.raises(DataError, match="not on this machine's disk"):
        upload("memory://folder", "me/mine")
