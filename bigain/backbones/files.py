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
    if not (folder / "config.json").is_file():
        raise BiGainError(
            f"{folder}/config.json not found; model.path must be a diffusers pipeline folder "
            "with its components, as save_pretrained writes it"
        )
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
    config = json.loads((folder / "config.json").read_text())
    return {"config": {k: v for k, v in config.items() if not k.startswith("_")}, "weights": hashes}
