"""Models of the Hugging Face hub, or folders in their format."""

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from bigain.errors import BiGainError

WANTED = ["*.json", "*.txt", "*.safetensors"]


def folder(path: str, override: str) -> Path:
    """The folder of a model with its config and weights; fetched once if ``path`` is a hub id.

    Args:
        path: a folder as save_pretrained writes it, or a hub id.
        override: the setting that names it, for the error.

    Raises:
        BiGainError: if it cannot be had, or lacks its config or safetensors weights.
    """
    found = Path(path)
    if not found.is_dir():
        try:
            found = Path(snapshot_download(path, allow_patterns=WANTED))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise BiGainError(
                f"{path} is neither a folder nor a model that the Hugging Face hub gives now "
                f"({type(error).__name__}); download it elsewhere (`hf download {path}`) and name "
                f"its folder with {override}=..."
            ) from error
    if not (found / "config.json").is_file() or not list(found.glob("*.safetensors")):
        raise BiGainError(
            f"{found} lacks config.json or *.safetensors; name a whole model's folder with "
            f"{override}=..."
        )
    return found
