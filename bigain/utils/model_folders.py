"""Checks on a pipeline's folder before anything is loaded from it."""

import hashlib
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from bigain.errors import BiGainError

SETTING = (
    "model.path must be a diffusers pipeline folder with its components, as save_pretrained "
    "writes it"
)


def component(path: Path, name: str, mend: str = SETTING) -> Path:
    """The folder of a pipeline's component, its config and weights present.

    Raises:
        BiGainError: naming the file that is missing, with ``mend`` for what to do.
    """
    folder = path / name
    config(folder / "config.json", mend)
    if not weights(folder):
        raise BiGainError(f"{folder} holds no *.safetensors or *.bin weights; {mend}")
    return folder


def weights(folder: Path) -> list[Path]:
    """Files of weights, variants such as model.fp16.safetensors left out.

    PyTorch's own .bin count only where there is no safetensors.
    """
    for pattern in ("*.safetensors", "*pytorch_model*.bin"):
        if found := sorted(f for f in folder.glob(pattern) if f.name.count(".") == 1):
            return found
    return []


def digest(folder: Path) -> dict[str, Any]:
    """SHA-256 of a component's weights, and its config: what tells one model from another."""
    hashes = {file.name: sha256(file) for file in weights(folder)}
    return {"config": config(folder / "config.json"), "weights": hashes}


def sha256(file: Path) -> str:
    """Of a file's content; read once in a process, and not at all in the hub's cache."""
    if file.is_symlink():
        blob = file.readlink()
        if blob.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", blob.name):
            return blob.name  # large files are named by it
    stat = file.stat()
    return _sha256(file, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _sha256(file: Path, size: int, modified: int) -> str:
    with file.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def config(path: Path, mend: str = SETTING) -> dict[str, Any]:
    """A component's configuration, less the notes of the library that wrote it.

    Raises:
        BiGainError: if it is missing or damaged.
    """
    try:
        found = json.loads(path.read_text())
    except OSError:
        raise BiGainError(f"{path} not found; {mend}") from None
    except ValueError as error:
        raise BiGainError(f"{path} is damaged ({error}); copy it there again") from error
    return {k: v for k, v in found.items() if not k.startswith("_")}
