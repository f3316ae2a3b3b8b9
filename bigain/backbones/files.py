"""Checks on a pipeline's folder before anything is loaded from it."""

import hashlib
import json
from pathlib import Path
from typing import Any

from bigain.errors import BiGainError


def component(path: Path, name: str) -> Path:
    """The folder of a pipeline's component, its config and weights present.

    Raises:
        BiGainError: naming the file that is missing.
    """
    folder = path / name
    config(folder / "config.json")
    if not list(folder.glob("*.safetensors")):
        raise BiGainError(
            f"{folder} holds no *.safetensors weights; copy them there, or set model.path"
        )
    return folder


def digest(folder: Path) -> dict[str, Any]:
    """SHA-256 of a component's weights, and its config: what tells one model from another."""
    hashes = {}
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as f:
            hashes[file.name] = hashlib.file_digest(f, "sha256").hexdigest()
    return {"config": config(folder / "config.json"), "weights": hashes}


def config(path: Path) -> dict[str, Any]:
    """A component's configuration, less the notes of the library that wrote it.

    Raises:
        BiGainError: if it is missing or damaged.
    """
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise BiGainError(
            f"{path} not found; model.path must be a diffusers pipeline folder with its "
            "components, as save_pretrained writes it"
        ) from None
    except ValueError as error:
        raise BiGainError(f"{path} is damaged ({error}); copy it there again") from error
    return {k: v for k, v in found.items() if not k.startswith("_")}
