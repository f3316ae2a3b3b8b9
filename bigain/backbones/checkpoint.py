"""A diffusers pipeline on disk or on the hub, loaded component by component."""

import json
from collections.abc import Iterator, Sequence
from functools import cache, cached_property, lru_cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import torch

from bigain.backbones.architectures import ARCHITECTURES
from bigain.errors import BiGainError, reason_of
from bigain.utils import hub, model_folders
from bigain.utils.setting_types import annotations, check_types, shown

SETTING = "model.path"
# the largest whole numbers of a config.json, by a part of the key; several times those of any
# published model, and small enough to build its skeleton
MOST = {"layers": 1000, "sample_size": 1024}
MOST_OTHERS = 2**20


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
            kinds = ("*.json", "*.txt", "*.model", "*.safetensors")
            wanted += [f"{name}/{kind}" for kind in kinds]
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

    @property
    def fetched(self) -> bool:
        """Whether `folder` finds all components without fetching any."""
        if not self.on_hub:
            return True
        found = hub.local(self.path, self.revision)
        return found is not None and all(
            (found / name).is_dir()
            and (not (found / name / "config.json").exists() or model_folders.weights(found / name))
            for name in self._components
        )

    def has(self, name: str) -> bool:
        """Whether the pipeline names this component or has a folder for it."""
        index = self.folder / "model_index.json"
        named = model_folders.config(index).get(name) if index.is_file() else None
        listed = isinstance(named, list) and bool(named) and named[0] is not None
        return listed or (self.folder / name).is_dir()

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
        return self._built(kind, name, self._architecture(name))

    def load(self, kind: Any, name: str, **options: Any) -> Any:
        """A component with its weights, for inference.

        Args:
            kind: the component's class in diffusers or transformers.
            options: options for its ``from_pretrained``.

        Raises:
            BiGainError: if a file is missing or damaged, or weights and config disagree.
        """
        folder = model_folders.component(self.folder, name, self._mend_missing)
        config = self.config(name)
        self._check_sizes(name, config)
        if hasattr(kind, "from_config"):  # diffusers' classes, which allocate before they compare
            built = sum(p.numel() for p in self._built(kind, name, config).parameters())
            kept = sum(file.stat().st_size for file in model_folders.weights(folder))
            if built > kept:
                raise BiGainError(
                    f"{folder}: config.json describes a network of {built} parameters, and its "
                    f"weights hold {kept} bytes; copy both from the same model"
                )
        safe = model_folders.weights(folder)[0].suffix == ".safetensors"
        try:
            model, found = kind.from_pretrained(
                folder, use_safetensors=safe, output_loading_info=True, **options
            )
        except Exception as error:  # damaged files raise many kinds of errors
            reason = reason_of(error)
            raise BiGainError(f"{folder} cannot be loaded ({reason}); {self.mend}") from error
        # older text encoders list their positions among the weights
        unexpected = [k for k in found["unexpected_keys"] if not k.endswith("position_ids")]
        if strange := [*found["missing_keys"], *unexpected]:
            raise BiGainError(
                f"{folder}: weights and config.json disagree about {len(strange)} tensors, "
                f"{sorted(strange)[0]} first; copy both from the same model"
            )
        return model.eval().requires_grad_(False)

    def _built(self, kind: Any, name: str, config: dict[str, Any]) -> Any:
        self._check_sizes(name, config)
        check_types(f"{self.path}/{name}/config.json", config, _scalars(kind), self.mend)
        try:
            return _skeleton(kind, json.dumps(config))
        except Exception as error:  # damaged configs raise many kinds of errors
            reason = reason_of(error)
            raise BiGainError(
                f"{self.path}: {name}/config.json does not fit {kind.__name__} ({reason}); "
                f"{self.mend}"
            ) from error

    def _check_sizes(self, name: str, config: dict[str, Any]) -> None:
        """Refuse sizes that would fill the memory before anything else could be noticed."""
        for key, value in config.items():
            most = next((n for part, n in MOST.items() if part in key), MOST_OTHERS)
            if any(number > most for number in _whole_numbers(value)):
                raise BiGainError(
                    f"{self.path}: {name}/config.json has {key}={shown(value)}, and no model has "
                    f"more than {most}; {self.mend}"
                )

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


@cache
def _scalars(kind: Any) -> dict[str, Any]:
    """The numbers and switches among a diffusers class's settings, each of any such type.

    Published configs mix these types; only a text, a list or a mapping in their place is wrong.
    """
    found = annotations(kind)
    found.pop("sample_size", None)  # a list for rectangular samples, whatever the annotation
    single = {int, float, bool, NoneType}
    return {
        name: float | bool | None
        for name, hint in found.items()
        if hint in single
        or (get_origin(hint) in (Union, UnionType) and set(get_args(hint)) <= single)
    }


def _whole_numbers(value: Any) -> Iterator[int]:
    """All whole numbers in a value of JSON."""
    if isinstance(value, int):
        yield value
    elif isinstance(value, list):
        for inner in value:
            yield from _whole_numbers(inner)


@lru_cache(maxsize=8)
def _skeleton(kind: Any, config: str) -> Any:
    with torch.device("meta"):
        return kind.from_config(json.loads(config)).eval()
