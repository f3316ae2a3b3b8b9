"""Models on the Hugging Face hub, or folders in the same format."""

from pathlib import Path

from bigain.errors import BiGainError
from bigain.utils import hub

WANTED = ["*.json", "*.txt", "*.safetensors"]


def folder(path: str, override: str) -> Path:
    """The folder of a model with its config and weights, fetched once if ``path`` is a hub id.

    Args:
        path: a folder as written by save_pretrained, or a hub id.
        override: the setting that names the model, for the error message.

    Raises:
        BiGainError: if the model cannot be obtained, or lacks its config or safetensors weights.
    """
    found = Path(path)
    if not found.is_dir():
        found = hub.snapshot(path, WANTED, override)
    if not (found / "config.json").is_file() or not list(found.glob("*.safetensors")):
        raise BiGainError(
            f"{found} lacks config.json or *.safetensors; name a whole model's folder with "
            f"{override}=..."
        )
    return found
