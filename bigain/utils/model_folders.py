"""Checks on the folder of a pipeline before anything is loaded from it."""

import json
from pathlib import Path
from typing import Any

from bigain.errors import BiGainError
from bigain.utils.hash_cache import sha256
from bigain.utils.setting_types import shown

SETTING = (
    "model.path must be a diffusers pipeline folder with its components, as save_pretrained "
    "writes it"
)


def component(path: Path, name: str, mend: str = SETTING) -> Path:
    """The folder of a pipeline's component, which has its config and weights.

    Raises:
        BiGainError: if a file is missing; the message names it and says with ``mend`` what to do.
    """
    folder = path / name
    config(folder / "config.json", mend)
    if not weights(folder):
        if variants := sorted(f.name for f in folder.glob("*.*.safetensors")):
            kind = variants[0].split(".")[1]
            raise BiGainError(
                f"{folder} holds only the variant {kind} of its weights, {variants[0]}, and this "
                "project loads the weights without a variant; fetch those, or load the pipeline "
                f"with variant={kind!r} in diffusers and write it with save_pretrained"
            )
        raise BiGainError(f"{folder} holds no *.safetensors or *.bin weights; {mend}")
    return folder


def weights(folder: Path) -> list[Path]:
    """The files of weights, except for variants such as model.fp16.safetensors.

    PyTorch's own .bin files count only where there are no safetensors files.
    """
    for pattern in ("*.safetensors", "*pytorch_model*.bin"):
        if found := sorted(f for f in folder.glob(pattern) if f.name.count(".") == 1):
            return found
    return []


def digest(folder: Path) -> dict[str, Any]:
    """The SHA-256 of a component's weights, and its config, which together identify the model."""
    hashes = {file.name: sha256(file) for file in weights(folder)}
    return {"config": config(folder / "config.json"), "weights": hashes}


def config(path: Path, mend: str = SETTING) -> dict[str, Any]:
    """A component's configuration, without the notes of the library that wrote it.

    Raises:
        BiGainError: if the file is missing or damaged.
    """
    try:
        found = json.loads(path.read_text())
    except OSError:
        raise BiGainError(f"{path} not found; {mend}") from None
    except ValueError as error:
        raise BiGainError(f"{path} is damaged ({error}); copy it there again") from error
    if not isinstance(found, dict):
        raise BiGainError(
            f"{path} is damaged (it holds {shown(found)} instead of an object); copy it there again"
        )
    return {k: v for k, v in found.items() if not k.startswith("_")}
