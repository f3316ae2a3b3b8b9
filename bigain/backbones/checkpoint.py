"""A diffusers pipeline on disk or on the hub, loaded component by component."""

import json
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch

from bigain.backbones.architectures import ARCHITECTURES
from bigain.errors import BiGainError
from bigain.utils import hub, model_folders

SETTING = "model.path"


class Checkpoint:
    """A pipeline whose files are fetched only when needed, and only for the components named.

    Args:
        path: a folder as written by save_pretrained, or a hub id.
        components: the subfolders that are needed.
        revision: branch, tag or commit on the hub; None for the newest.
    """

    def __init__(self, path: str, components: Sequence[str], revision: str | None = None) -> None:
        self.path = path
        self.revision = revision
        self.on_hub = hub.is_id(path)
        wanted = ["model_index.json"]
        for name in components:
            wanted += [f"{name}/{kind}" for kind in ("*.json", "*.txt", "*.safetensors")]
        self._components, self._wanted = tuple(components), wanted

    @property
    def mend(self) -> str:
        """What to do about a file that is missing or damaged."""
        if self.on_hub:
            pinned = f" --revision {self.revision}" if self.revision else ""
            return f"fetch it again with `hf download {self.path}{pinned} --force-download`"
        return f"copy the model there again, or set {SETTING} to a whole diffusers pipeline"

    @cached_property
    def folder(self) -> Path:
        """The folder with the files, which are fetched on first use.

        Raises:
            BiGainError: if they cannot be obtained.
        """
        if not self.on_hub:
            return Path(self.path)
        found = hub.snapshot(self.path, self._wanted, SETTING, self.revision)
        # safetensors if the model has them, else PyTorch's own format
        bare = [
            name
            for name in self._components
            if (found / name / "config.json").is_file() and not model_folders.weights(found / name)
        ]
        if bare:
            older = [*self._wanted, *(f"{name}/*pytorch_model*.bin" for name in bare)]
            return hub.snapshot(self.path, older, SETTING, self.revision)
        return found

    def has(self, name: str) -> bool:
        """Whether the pipeline names this component or has a folder for it."""
        index = self.folder / "model_index.json"
        named = model_folders.config(index).get(name) if index.is_file() else None
        return (named or [None])[0] is not None or (self.folder / name).is_dir()

    def config(self, name: str, file: str = "config.json") -> dict[str, Any]:
        return model_folders.config(self.folder / name / file, self._mend_missing)

    def digest(self, name: str) -> dict[str, Any]:
        """What identifies a component's weights in a run's fingerprint."""
        return model_folders.digest(model_folders.component(self.folder, name, self._mend_missing))

    def skeleton(self, kind: Any, name: str) -> Any:
        """A component on the meta device, built from its config; no weights are read or fetched.

        Checkpoints of the same architecture share it, so leave it as it is.

        Args:
            kind: the component's class in diffusers.
        """
        return _skeleton(kind, json.dumps(self._architecture(name)))

    def load(self, kind: Any, name: str, **options: Any) -> Any:
        """A component with its weights, for inference.

        Args:
            kind: the component's class in diffusers or transformers.
            options: options for its ``from_pretrained``.

        Raises:
            BiGainError: if a file is missing or damaged, or weights and config disagree.
        """
        folder = model_folders.component(self.folder, name, self._mend_missing)
        safe = model_folders.weights(folder)[0].suffix == ".safetensors"
        try:
            model, found = kind.from_pretrained(
                folder, use_safetensors=safe, output_loading_info=True, **options
            )
        except Exception as error:  # damaged files raise many kinds of errors
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise BiGainError(f"{folder} cannot be loaded ({reason}); {self.mend}") from error
        # older text encoders list their positions among the weights
        unexpected = [k for k in found["unexpected_keys"] if not k.endswith("position_ids")]
        if strange := [*found["missing_keys"], *unexpected]:
            raise BiGainError(
                f"{folder}: weights and config.json disagree about {len(strange)} tensors, "
                f"{sorted(strange)[0]} first; copy both from the same model"
            )
        return model.eval().requires_grad_(False)

    @property
    def _mend_missing(self) -> str:
        return self.mend if self.on_hub else model_folders.SETTING

    def _architecture(self, name: str) -> dict[str, Any]:
        file = f"{name}/config.json"
        if not self.on_hub:
            return model_folders.config(self.folder / file)
        if found := hub.cached(self.path, file, self.revision):
            return model_folders.config(found)
        if self.path in ARCHITECTURES:
            return ARCHITECTURES[self.path]
        return model_folders.config(hub.file(self.path, file, SETTING, self.revision))


@lru_cache(maxsize=8)
def _skeleton(kind: Any, config: str) -> Any:
    with torch.device("meta"):
        return kind.from_config(json.loads(config)).eval()
