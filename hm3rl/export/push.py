"""Uploading an exported folder to the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from hm3rl.errors import HM3Error, InputError
from hm3rl.export.record import RECORD_FILE, verify_record


@dataclass(frozen=True)
class PushReport:
    """What was uploaded.

    Attributes:
        url: Address of the commit or of the repository.
        files: Names of the files, sorted.
        size: Bytes of all files together.
    """

    url: str
    files: tuple[str, ...]
    size: int


def push(
    folder: Path, repository: str, *, private: bool = False, token: str | None = None
) -> PushReport:
    """Upload a folder whose reload check passed; the repository is made if it does not exist.

    Args:
        folder: A folder that `hm3rl export` or `hm3rl merge` wrote, unchanged since but for its
            card.
        repository: Id of the repository, "user/name".
        private: Whether a new repository is private.
        token: Access token; None: the one that `hf auth login` stored, or HF_TOKEN.

    Returns:
        What was uploaded.

    Raises:
        InputError: The name is no repository's, the network is switched off, there is no token,
            the folder is not what was checked, or the hub refuses the token or the name. All but
            the last come before any work.
        HM3Error: The upload broke off.
    """
    if repository.count("/") != 1:
        raise InputError(f"{repository!r} names no repository", "write USER/NAME")
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise InputError(
            f"{repository!r} names no repository: {error}", "write USER/NAME"
        ) from None
    if constants.HF_HUB_OFFLINE:
        raise InputError(
            "the hub cannot be reached: HF_HUB_OFFLINE is set", "unset it: HF_HUB_OFFLINE=0"
        )
    recorded = verify_record(folder)["files"]
    files = tuple(sorted({*recorded, RECORD_FILE, "README.md"}))
    if not (folder / "README.md").is_file():
        raise InputError(f"{folder} has no README.md", "a published model needs its card")
    token = token or get_token()
    if not token:
        raise InputError(
            "there is no token for the hub", "log in with `hf auth login`, or give --token"
        )
    api = HfApi(token=token)
    try:
        api.create_repo(repository, private=private, repo_type="model", exist_ok=True)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            repo_type="model",
            allow_patterns=list(files),
            commit_message="Upload by hm3rl push",
        )
    except HfHubHTTPError as error:
        raise InputError(
            f"the hub refused {repository}: {str(error).strip().splitlines()[0]}",
            "check the name and that the token may write to it",
        ) from error
    except Exception as error:  # network errors come as many kinds, none of them ours
        raise HM3Error(f"the upload to {repository} broke off: {error!r}") from error
    return PushReport(str(commit), files, sum((folder / name).stat().st_size for name in files))
