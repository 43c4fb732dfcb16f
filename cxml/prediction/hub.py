"""Exported models on the Hugging Face hub."""

from __future__ import annotations

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id

from cxml import storage
from cxml.errors import DataError


def is_repository_name(name: str) -> bool:
    """Whether a repository of the hub could have this name."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def download(name: str, revision: str | None = None) -> str:
    """The local folder of a repository of the hub, downloaded if it is not there.

    Raises:
        DataError: there is no such repository, or it cannot be reached.
    """
    try:
        return snapshot_download(name, revision=revision)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        problem = f"is neither an exported folder nor a repository that can be downloaded ({error})"
        raise DataError(
            name, problem, "Check the path, the name, the network, and that HF_HOME is writable."
        ) from error


def upload(folder: str, name: str, *, is_private: bool = True) -> str:
    """Put an exported local folder into the hub's repository `name`, made if need be; the URL of the commit.

    Raises:
        DataError: the folder is not on this machine's disk, or the hub refuses.
    """
    path = storage.local_path(folder)
    if path is None:
        raise DataError(folder, "is not on this machine's disk", "Export to a local folder first.")
    api = HfApi()
    try:
        api.create_repo(name, private=is_private, exist_ok=True)
        return str(api.upload_folder(repo_id=name, folder_path=path, commit_message="Add the model"))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise DataError(name, f"cannot be uploaded ({error})", "Log in: hf auth login.") from error
