"""The keys that ``python run.py`` accepts, and errors about them in one line.

It imports neither torch nor diffusers, so that a mistyped command is answered at once.
"""

import copy
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf

from bigain.errors import BiGainError, one_line, shortened
from bigain.utils.paths import REPOSITORY, given_path

GROUPS = ("model", "compressor", "dataset", "task", "features", "logger")
# Keys of a group that are about it, not arguments of its class, and their types: what other groups
# read of it.
ABOUT: dict[str, dict[str, Any]] = {
    "model": {
        "name": str,
        "image_size": int,
        "blocks": str | list[int],
        "guidance": float,
        "sampler": str,
        "spacing": str | None,
        "steps": int,
        "loss": str,
        "smallest_batch": int,
    },
    "compressor": {"name": str},
    "dataset": {"name": str, "reference": str | None},
    "task": {"name": str},
    "features": {"name": str},
    "logger": {"name": str},
}
# Keys whose types Hydra does not know from `Config`. Those of a metric's settings are its class's.
TYPES: dict[str, Any] = {
    **dict.fromkeys(GROUPS, dict[str, Any]),
    "evaluation": dict[str, Any],
    "blocks": str | list[int],
}
EVALUATION: dict[str, Any] = {
    "reference": str | None,
    "statistics": str,
    "clip": str | None,
    "allow_few": bool,
    "metrics": dict[str, Any],
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
    sites: Any = field(default_factory=lambda: ["self_attention"])
    decide_on: str = "default"
    plans: str = "shared"
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


def with_paths(cfg: DictConfig) -> DictConfig:
    """The configuration with ``~/`` at the start of any value replaced by the home directory.

    Raises:
        BiGainError: if a value is empty, as an unset shell variable leaves it, or holds NUL.
    """
    home = {}
    for key, value in _texts(OmegaConf.to_container(cfg), ""):
        if "\0" in value:
            raise BiGainError(f"{key} holds a NUL character, which no path or name may; remove it")
        if not value.strip():
            raise BiGainError(
                f"{key} is empty, as an unset shell variable leaves it; give a value, or remove it"
            )
        if value == "~" or value.startswith("~/"):
            home[key] = str(given_path(value))
    if home:
        cfg = copy.deepcopy(cfg)
        for key, value in home.items():
            OmegaConf.update(cfg, key, value)
    return cfg


def without_environment(cfg: DictConfig) -> dict[str, Any]:
    """The configuration with interpolations resolved, except those that read the environment.

    These stay as they are written, because a value of the environment may be a secret.
    """

    def escaped(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: escaped(value) for key, value in node.items()}
        if isinstance(node, list):
            return [escaped(value) for value in node]
        reads = isinstance(node, str) and "oc.env:" in node
        return node.replace("${", r"\${") if reads else node

    plain = OmegaConf.create(escaped(OmegaConf.to_container(cfg)))
    found: Any = OmegaConf.to_container(plain, resolve=True)
    return found


def _texts(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """The keys of all texts in a configuration, with the texts."""
    if isinstance(node, str):
        yield key, node
    elif isinstance(node, dict):
        for name, inner in node.items():
            yield from _texts(inner, f"{key}.{name}" if key else str(name))


def explain(error: BaseException) -> str:
    """An error in one line; for a misspelt option or key, with what may have been meant."""
    if isinstance(error, OverrideParseException):
        reason = shortened(one_line(error).partition(" See http")[0])
        return (
            f"{shortened(error.override)} cannot be read: {reason}; write it as "
            "key=value, and quote special characters twice, as in 'key=\"a, b\"'"
        )
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        group, _, given = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={given} does not exist; {suggestion(given, error.options)}"
    cause = error.__cause__
    node = getattr(cause, "parent_node", None) or getattr(error, "parent_node", None)
    line = one_line(error)
    if cause is not None and str(cause) not in str(error):
        line += f": {one_line(cause)}"
    line = re.sub(r" full_key: .*| object_type=\w+| To append to your config use \S+:", "", line)
    if empty := re.search(r"Error resolving interpolation '[^']*\$\{(\w+)\}'", line):
        return f"{empty[1]} is empty; choose one: see python run.py --help"
    missing = re.search(r"Key '([^']*)' (?:is )?not in", line)
    if isinstance(node, DictConfig) and missing:
        line += f"; {suggestion(missing[1], map(str, node))}"
    return line


def suggestion(given: str, accepted: Iterable[str]) -> str:
    """What may have been meant by ``given``, and all that is accepted."""
    every = sorted(name for name in accepted if name != "hydra" and not name.startswith("_"))
    near = get_close_matches(given.lower(), every, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{hint}accepted: {', '.join(every)}"


register()  # on import, as launchers start processes that import this and not run.py
