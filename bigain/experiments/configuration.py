"""A run's configuration, checked and turned into typed objects."""

import pickle
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bigain.backbones import Backbone
from bigain.compression import DECIDE_ON, SITES
from bigain.compression.compilation import MODES
from bigain.compression.sharing import PLANS
from bigain.compressors import Compressor
from bigain.errors import BiGainError
from bigain.experiments.logging import Logger
from bigain.experiments.schema import (
    DTYPES,
    GROUPS,
    PASSING,
    TYPES,
    Config,
    explain,
    suggestion,
    with_paths,
    without_environment,
)
from bigain.experiments.scoring_settings import check_evaluation, scoring_of
from bigain.experiments.targets import build, check_group
from bigain.store.shards import WHOLE, Shard
from bigain.tasks import Task
from bigain.tasks.base import Setup
from bigain.utils.paths import without_home
from bigain.utils.setting_types import check_types

MOST_AT_A_TIME = 1_000_000  # evaluations


@dataclass(frozen=True)
class Settings:
    """A configuration as typed objects; nothing below `bigain.experiments` sees any other form.

    Attributes:
        task: what to do.
        setup: what to do it with.
        shard: the share of the images to compute.
        logger: shows finished runs; None for logger=none.
        sweep: the experiment that a run belongs to, if any.
        cfg: the configuration that they were built from.
    """

    task: Task
    setup: Setup
    shard: Shard
    logger: Logger | None
    sweep: str | None
    cfg: DictConfig

    def uncompressed(self) -> "Settings":
        """The same settings without a compressor, and without those that only matter with one."""
        names = {**self.setup.names, "compressor": "none"}
        setup = replace(self.setup, compressor=None, names=names)
        return replace(self, task=self.task.uncompressed(), setup=setup)

    @property
    def recorded(self) -> dict[str, Any]:
        """The configuration as a run keeps it, less what cannot change a result."""
        found: Any = OmegaConf.to_container(self.cfg)
        kept = {str(k): without_home(value) for k, value in found.items() if k not in PASSING}
        return kept | self._compressor

    @property
    def resolved(self) -> dict[str, Any]:
        """All of it, with interpolations resolved, unless they read the environment."""
        return without_environment(self.cfg) | self._compressor

    @property
    def _compressor(self) -> dict[str, Any]:
        plain = self.setup.names["compressor"] == "none"
        return {"compressor": {"name": "none", "_target_": None}} if plain else {}


def settings_of(cfg: DictConfig, share: Shard = WHOLE) -> Settings:
    """Check a configuration and build the objects that it names; no weights are loaded.

    Args:
        share: the share of the images to compute.

    Raises:
        BiGainError: if it, or the data, cannot be used.
    """
    given = with_paths(cfg)
    cfg = check(given)
    task: Task = build(cfg, "task")
    if not task.schema and not share.whole:
        raise BiGainError(f"task={task.name} has no shards; remove shards={share.count}")
    backbone: Backbone | None = build(cfg, "model") if "model" in task.needs else None
    setup = Setup(
        names={group: cfg[group].name for group in ("task", "model", "dataset", "compressor")},
        compressor=_compressor_of(cfg, task, backbone),
        dataset=build(cfg, "dataset") if "dataset" in task.needs else None,
        backbone=backbone,
        scoring=scoring_of(given) if task.scored and cfg.features._target_ is not None else None,
        blocks=cfg.blocks if isinstance(cfg.blocks, str) else tuple(cfg.blocks),
        sites=tuple(cfg.sites),
        decide_on=cfg.decide_on,
        seed=cfg.seed,
        dtype=getattr(torch, cfg.dtype),
        device=cfg.device,
        batch_size=cfg.batch_size,
        smallest_batch=cfg.model.get("smallest_batch", 1),
        compile=cfg.compile,
        results=Path(cfg.results),
        plans=cfg.plans,
        start=cfg.start,
        limit=cfg.limit,
    )
    task.check(setup)
    return Settings(task, setup, share, build(cfg, "logger"), cfg.sweep, given)


def _compressor_of(cfg: DictConfig, task: Task, backbone: Backbone | None) -> Compressor | None:
    """The compressor as it suits the task and the model; None if there is none to use."""
    found: Compressor | None = build(cfg, "compressor") if "compressor" in task.needs else None
    if found is None:
        return None
    assert backbone is not None  # whatever compresses needs a model
    found = found.suited(task.purpose, backbone.family)
    if not found.paired and not task.compares_classes:
        raise BiGainError(
            f"{found!r} draws for each class, and task={task.name} compares no classes; "
            "set compressor.destinations=random"
        )
    if found.anchor_every is not None and cfg.compile is not None:
        raise BiGainError(
            "Anchored keeps tensors from one forward to the next, which torch.compile cannot "
            "trace; remove compile, or choose the compressor that it holds"
        )
    return found


def check(cfg: DictConfig) -> DictConfig:
    """Refuse what no run can use, before anything is loaded.

    Returns:
        A copy with all interpolations resolved, because each look at one that is not takes time.

    Raises:
        BiGainError: naming the key, what was given and what is accepted.
    """
    if cfg.experiment:
        raise BiGainError(
            f"experiment={cfg.experiment} is a sweep over its rows; add -m, and choose the scale: "
            f"python run.py -m experiment={cfg.experiment} scale=mini (or paper)"
        )
    known = {key.name for key in fields(Config)}
    if unknown := sorted(set(map(str, cfg)) - known):
        raise BiGainError(f"{unknown[0]} is not a key; {suggestion(unknown[0], known)}")
    for group in GROUPS:
        if not cfg[group]:  # before interpolations that read it
            raise BiGainError(f"{group} is empty; choose one: see python run.py --help")
    cfg = pickle.loads(pickle.dumps(cfg))  # as copy.deepcopy, in a fifth of the time
    try:
        OmegaConf.resolve(cfg)
        plain: Any = OmegaConf.to_container(cfg)
    except OmegaConfBaseException as error:
        raise BiGainError(explain(error)) from error
    if cfg.blocks not in ("default", "all"):
        _check_list("blocks", cfg.blocks, "default, all or a list such as [0, 1]")
    _check_list("sites", cfg.sites, f"a list of some of {', '.join(SITES)}, such as [mlp]")
    check_types("", plain, TYPES)
    for group in GROUPS:
        check_group(group, plain[group])
    check_evaluation(cfg)
    _check_choice("dtype", cfg.dtype, DTYPES)
    _check_choice("decide_on", cfg.decide_on, ("default", *DECIDE_ON))
    _check_choice("plans", cfg.plans, PLANS)
    if not cfg.sites:
        raise BiGainError(f"sites is empty; name some of {', '.join(SITES)}")
    for site in cfg.sites:
        _check_choice("sites", site, tuple(SITES))
    if cfg.compile is not None:
        _check_choice("compile", cfg.compile, MODES)
    if cfg.batch_size < 1:
        raise BiGainError(f"batch_size must be at least 1, got {cfg.batch_size}")
    if cfg.batch_size > MOST_AT_A_TIME:
        raise BiGainError(
            f"batch_size must be at most {MOST_AT_A_TIME}, as no device holds more; got "
            f"{cfg.batch_size}"
        )
    if cfg.start < 0:
        raise BiGainError(f"start must be at least 0, got {cfg.start}")
    return cfg


def shard_of(cfg: DictConfig) -> Shard:
    """The share of the images to compute.

    Raises:
        BiGainError: if ``shards`` and ``shard`` do not name one.
    """
    count, index = cfg.shards, cfg.shard
    if count < 1:
        raise BiGainError(f"shards must be at least 1, got {count}")
    if index is None and count > 1:
        raise BiGainError(
            f"shards={count} needs one of shard=0..{count - 1}, or -m, which runs them all: "
            f"python run.py -m shards={count} ..."
        )
    if index is not None and not 0 <= index < count:
        raise BiGainError(f"shard must be one of 0..{count - 1} (shards={count}), got {index}")
    return Shard(count, index or 0)


def _check_list(key: str, value: object, accepted: str) -> None:
    if not isinstance(value, ListConfig):
        raise BiGainError(f"{key} must be {accepted}; got {value}")


def _check_choice(key: str, value: str, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        raise BiGainError(f"{key} must be one of {', '.join(accepted)}; got {value}")
