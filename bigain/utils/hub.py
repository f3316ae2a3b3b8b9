"""Files of the Hugging Face hub, fetched once and then read from its cache."""

import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants, hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from bigain.errors import BiGainError, reason_of

ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
VARIANTS = ["*.*.safetensors", "*.*.bin"]  # half-precision copies and the like


def is_id(path: str) -> bool:
    """Whether ``path`` is a hub id: it is not a folder and has the form owner/name."""
    return not Path(path).is_dir() and ID.fullmatch(path) is not None


def snapshot(path: str, wanted: Sequence[str], setting: str, revision: str | None = None) -> Path:
    """The folder with a model's files, which are fetched if they are not in the cache.

    Args:
        path: a hub id.
        wanted: patterns of file names; variants of weights (`model.fp16.safetensors`) are skipped.
        setting: the setting that names the model, for the error message.
        revision: branch, tag or commit.

    Raises:
        BiGainError: if the files cannot be obtained.
    """
    try:
        found = snapshot_download(
            path, revision=revision, allow_patterns=list(wanted), ignore_patterns=VARIANTS
        )
    except Exception as error:  # the hub's own errors and those of its HTTP library
        raise _refusal(path, setting, revision, error) from error
    return Path(found)


def local(path: str, revision: str | None = None) -> Path | None:
    """The cache's folder of a model, which may lack some of its files; None if there is none."""
    try:
        return Path(snapshot_download(path, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def file(path: str, name: str, setting: str, revision: str | None = None) -> Path:
    """One file of a model, fetched if it is not in the cache.

    Raises:
        BiGainError: if the file cannot be obtained.
    """
    try:
        return Path(hf_hub_download(path, name, revision=revision))
    except Exception as error:
        if isinstance(error, EntryNotFoundError) and not isinstance(error, OSError):
            raise BiGainError(
                f"{path} has no {name}; name another kind of model with {setting}=..."
            ) from error
        raise _refusal(path, setting, revision, error) from error


def cached(path: str, name: str, revision: str | None = None) -> Path | None:
    """One file of a model, or None if it is not in the cache."""
    try:
        found = try_to_load_from_cache(path, name, revision=revision)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def _refusal(path: str, setting: str, revision: str | None, error: Exception) -> BiGainError:
    page = f"https://huggingface.co/{path}"
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, GatedRepoError) or status == 403:
        return BiGainError(
            f"{path} is gated: accept its licence on {page} and log in with `hf auth login`, or "
            f"set {setting}=FOLDER"
        )
    if isinstance(error, RevisionNotFoundError):
        return BiGainError(f"{path} has no revision {revision}; {page}/commits lists them")
    if isinstance(error, RepositoryNotFoundError | HFValidationError) or status in (401, 404):
        return BiGainError(
            f"{path} is neither a folder nor a public model of the Hugging Face hub; check the "
            f"spelling, log in with `hf auth login` if it is private, or set {setting}=FOLDER"
        )
    if isinstance(error, LocalEntryNotFoundError):
        reason = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "no connection"
    elif isinstance(error, HfHubHTTPError):
        reason = f"status {status}"
    else:
        reason = reason_of(error)
    pinned = f" --revision {revision}" if revision else ""
    return BiGainError(
        f"{path} is no folder, is not complete in the hub's cache, and cannot be fetched now "
        f"({reason}); run `hf download {path}{pinned}` where there is a network, or set "
        f"{setting}=FOLDER"
    )
