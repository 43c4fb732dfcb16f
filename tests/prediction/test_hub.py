"""Models on the Hugging Face hub: errors where the hub cannot be reached.

Oracle: the real client in its offline mode.
"""

import huggingface_hub
import pytest

from cxml.errors import DataError
from cxml.prediction import Predictor, upload


def test_a_repository_that_cannot_be_downloaded_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="nobody/nothing: is neither an exported folder nor a downloadable repository"):
        Predictor.from_pretrained("nobody/nothing")


def test_a_missing_folder_that_no_repository_can_be_named_is_refused_as_a_folder():
    with pytest.raises(DataError, match="no such/owner/name: contains no exported model: the folder does not exist"):
        Predictor.from_pretrained("no such/owner/name")


def test_an_upload_that_cannot_reach_the_hub_is_refused_by_name(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="me/mine: cannot be uploaded"):
        upload(str(tmp_path), "me/mine")
    with pytest.raises(DataError, match="is not a local folder"):
        upload("memory://folder", "me/mine")
