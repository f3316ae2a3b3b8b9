"""The keys that ``python run.py`` accepts, and errors about them in one line.

It imports neither torch nor diffusers, so that a mistyped command is answered at once.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from bigain.utils.paths import REPOSITORY

GROUPS = ("model", "compressor", "dataset", "task", "features", "logger")
# Keys of a group that are about it, not arguments of its class: what other groups read of it.
ABOUT = {
    "model": ("name", "image_size", "blocks", "guidance", "spacing"),
    "compressor": ("name",),
    "dataset": ("name", "reference"),
    "task": ("name",),
    "features": ("name",),
    "logger": ("name",),
}
# Keys of the configuration that cannot change a row: where, how and for what a command ran.
PASSING = {
    "results", "device", "batch_size", "compile", "start", "limit", "features", "evaluation",
    "logger", "experiment", "scale", "sweep", "shards", "shard",
}  # fmt: skip
DTYPES = ("float32", "float16", "bfloat16")


@dataclass
class Config:
    """Everything ``python run.py`` accepts; configs/config.yaml explains each key."""

    model: dict[str, Any] = field(default_factory=dict)
    compressor: dict[str, Any] = field(default_factory=dict)
    dataset: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    features: dict[str, Any] = field(default_factory=dict)
    logger: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    experiment: str | None = None
    blocks: Any = "default"
    sites: list[str] = field(default_factory=lambda: ["self_attention"])
    scale: str | None = None
    start: int = 0
    limit: int | None = None
    seed: int = 0
    dtype: str = "float32"
    device: str = "auto"
    batch_size: int = 64
    compile: str | None = None
    results: str = "results"
    shards: int = 1
    shard: int | None = None
    sweep: str | None = None


def register() -> None:
    """Tell Hydra of the schema and of ``${repository:path}``, a path inside this repository."""
    ConfigStore.instance().store("schema", Config)
    OmegaConf.register_new_resolver("repository", lambda path: str(REPOSITORY / path), replace=True)


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def explain(error: BaseException) -> str:
    """An error in one line; for a key that a group lacks, with those it has."""
    node = getattr(error.__cause__, "parent_node", None) or getattr(error, "parent_node", None)
    line = one_line(error)
    if error.__cause__ is not None and str(error.__cause__) not in str(error):
        line += f": {one_line(error.__cause__)}"
    line = re.sub(r" full_key: .*| object_type=\w+", "", line)
    if isinstance(node, DictConfig):
        line += f"; accepted keys: {', '.join(sorted(map(str, node)))}"
    return line


register()  # on import, as launchers start processes that import this and not run.py
