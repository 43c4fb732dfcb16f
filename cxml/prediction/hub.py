"""Exported models on the Hugging Face hub."""

from __future__ import annotations

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id

from cxml import storage
from cxml.errors import DataError


def is_repository_name(name: str) -> bool:
    """Whether the name has the form of a hub repository."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def download(name: str, revision: str | None = None) -> str:
    """The local folder of a hub repository, downloaded if needed.

    Raises:
        DataError: the repository does not exist or cannot be reached.
    """
    try:
        return snapshot_download(name, revision=revision)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        problem = f"is neither an exported folder nor a downloadable repository ({error})"
        raise DataError(
            name, problem, "Check the path, the name, the network, and that HF_HOME is writable."
        ) from error


def upload(folder: str, name: str, *, is_private: bool = True) -> str:
    """Upload an exported local folder to the hub repository `name`, created if needed. Returns the URL of the commit.

    Raises:
        DataError: the folder is not local, or the upload failed.
    """
    path = storage.local_path(folder)
    if path is None:
        raise DataError(folder, "is not a local folder", "Export to a local folder first.")
    api = HfApi()
    try:
        api.create_repo(name, private=is_private, exist_ok=True)
        return str(api.upload_folder(repo_id=name, folder_path=path, commit_message="Add the model"))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise DataError(name, f"cannot be uploaded ({error})", "Log in: hf auth login.") from error
