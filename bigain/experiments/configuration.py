"""A run's configuration, checked and turned into the objects that it names.

The four groups (model, compressor, dataset, task) each name a class and its arguments, so the
accepted keys are the class's own and a new method needs no schema.
"""

import importlib
import inspect
import json
import pickle
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from bigain.backbones import Backbone
from bigain.compression import DECIDE_ON, SITES
from bigain.compression.compilation import MODES
from bigain.compression.sharing import PLANS
from bigain.compressors import Compressor
from bigain.datasets import Dataset
from bigain.errors import BiGainError, one_line
from bigain.experiments.logging import Logger
from bigain.experiments.schema import (
    ABOUT,
    DTYPES,
    EVALUATION,
    GROUPS,
    NAME,
    PASSING,
    TYPES,
    Config,
    explain,
    suggestion,
    with_paths,
    without_environment,
)
from bigain.features.base import FeatureNetwork
from bigain.metrics.image_metric import ImageMetric
from bigain.store.reference_statistics import ADM
from bigain.store.shards import WHOLE, Shard
from bigain.tasks import TASKS, Task
from bigain.tasks.base import Setup
from bigain.tasks.scoring import PromptNetwork, Scoring, open_reference
from bigain.utils.devices import device_of
from bigain.utils.paths import REPOSITORY, without_home
from bigain.utils.setting_types import annotations, check_types, shown

# What a group's object is: it has the methods of this class.
KINDS: dict[str, type] = {
    "model": Backbone,
    "compressor": Compressor,
    "dataset": Dataset,
    "task": Task,
    "features": FeatureNetwork,
    "logger": Logger,
}
MOST_AT_A_TIME = 1_000_000  # evaluations
OPTIONAL = ("compressor", "features", "logger")  # groups of which _target_: null chooses nothing


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
        """The same without a compressor, and without what only a compressor gives a meaning."""
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
        share: of the images to compute.

    Raises:
        BiGainError: if it, or the data, cannot be used.
    """
    given = with_paths(cfg)
    cfg = check(given)
    task: Task = build(cfg, "task")
    if not task.schema and not share.whole:
        raise BiGainError(f"task={task.name} has no shards; remove shards={share.count}")
    if cfg.start < 0:
        raise BiGainError(f"start must be at least 0, got {cfg.start}")
    backbone: Backbone | None = build(cfg, "model") if "model" in task.needs else None
    compressor: Compressor | None = None
    if "compressor" in task.needs:
        compressor = build(cfg, "compressor")
    if compressor is not None:
        assert backbone is not None  # whatever compresses needs a model
        compressor = compressor.suited(task.purpose, backbone.family)
        if not compressor.paired and not task.compares_classes:
            raise BiGainError(
                f"{compressor!r} draws for each class, and task={task.name} compares no classes; "
                "set compressor.destinations=random"
            )
        if compressor.anchor_every is not None and cfg.compile is not None:
            raise BiGainError(
                "Anchored keeps tensors from one forward to the next, which torch.compile cannot "
                "trace; remove compile, or choose the compressor that it holds"
            )
    blocks = cfg.blocks if isinstance(cfg.blocks, str) else tuple(cfg.blocks)
    setup = Setup(
        names={group: cfg[group].name for group in ("task", "model", "dataset", "compressor")},
        compressor=compressor,
        dataset=build(cfg, "dataset") if "dataset" in task.needs else None,
        backbone=backbone,
        scoring=scoring_of(given) if task.scored and cfg.features._target_ is not None else None,
        blocks=blocks,
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
        _check_group(group, plain[group])
    check_types("evaluation", plain["evaluation"], EVALUATION)
    metrics(cfg)
    _check_reference(cfg)
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
    return cfg


def build(cfg: DictConfig, group: str) -> Any:
    """The object a group names; None for a compressor whose ``_target_`` is null.

    Raises:
        BiGainError: in one line, with the class's own words.
    """
    node = cfg[group]
    if node.get("_target_") is None:
        return None
    found: Any = OmegaConf.to_container(node, resolve=True)
    _check_group(group, found)
    try:
        return _made({k: v for k, v in found.items() if k not in ABOUT[group]})
    except BiGainError:
        raise
    except Exception as error:  # the class may raise any
        raise BiGainError(f"{group}={node.get('name')}: {one_line(error)}") from error


def _made(node: Any) -> Any:
    """The object that a checked node describes; any other value as it is.

    Hydra's `instantiate` does the same for the nodes that `_check_keys` checks, at ten times the
    cost.
    """
    if not isinstance(node, dict) or "_target_" not in node:
        return node
    made = {key: _made(value) for key, value in node.items() if not key.startswith("_")}
    return get_class(node["_target_"])(*map(_made, node.get("_args_", [])), **made)


def metrics(cfg: DictConfig) -> list[ImageMetric]:
    """The metrics of generated images, with their settings.

    Raises:
        BiGainError: if a setting is unknown or cannot be used.
    """
    known = _evaluation()
    if unknown := sorted(set(cfg.evaluation) - set(known)):
        raise BiGainError(
            f"evaluation.{unknown[0]} is not a key of evaluation; accepted: "
            f"{', '.join(sorted(map(str, known)))}"
        )
    nodes: Any = OmegaConf.to_container(cfg.evaluation.metrics, resolve=True)
    chosen = {name: node for name, node in nodes.items() if node is not None}
    for name, node in chosen.items():
        where = f"evaluation.metrics.{name}"
        check_types("evaluation.metrics", {name: node}, {name: ImageMetric})
        _check_keys("evaluation", node, where, {})
    try:
        return list(_metrics(json.dumps(list(chosen.values()))))
    except Exception as error:  # the class may raise any
        raise BiGainError(f"evaluation: {one_line(error)}") from error


def metric_kinds() -> list[type[ImageMetric]]:
    """The classes of the metrics that configs/config.yaml names, in its order."""
    return [get_class(node["_target_"]) for node in _evaluation()["metrics"].values()]


@cache
def _evaluation() -> Mapping[str, Any]:
    """The keys of `evaluation` as configs/config.yaml has them, with their interpolations."""
    loaded: Any = OmegaConf.load(REPOSITORY / "configs" / "config.yaml")
    found: Any = OmegaConf.to_container(loaded.evaluation)
    return found


@lru_cache(maxsize=64)  # as the jobs of a table share them
def _metrics(nodes: str) -> tuple[ImageMetric, ...]:
    return tuple(map(_made, json.loads(nodes)))


def scoring_of(cfg: DictConfig) -> Scoring:
    """The feature network, the reference and the metrics of a configuration.

    Raises:
        BiGainError: if a setting, the network's weights or the reference cannot be used.
    """
    network = build(cfg, "features")
    where = cfg.evaluation.reference
    if where is None:
        raise BiGainError(
            f"dataset={cfg.dataset.name} names no reference; set evaluation.reference to a "
            "folder of images or an .npz of scripts/make_reference_statistics.py, or "
            "features=none"
        )
    return Scoring(
        network,
        metrics(cfg),
        open_reference(where, Path(cfg.evaluation.statistics), network, _making(cfg)),
        device_of(cfg.device),
        cfg.batch_size,
        _clip(cfg.evaluation.clip),
        cfg.evaluation.allow_few,
    )


def _making(cfg: DictConfig) -> str | None:
    """What makes the statistics of ``evaluation.reference``; None if they are ADM's."""
    where = str(cfg.evaluation.reference)
    if where.startswith(ADM):
        return None
    given = [f"features={cfg.features.name}", *_changed(cfg, "features")]
    if where == cfg.dataset.reference and "split" in cfg.dataset:
        data = {k: v for k, v in cfg.dataset.items() if not str(k).startswith("subset")}
        size = f"-{data['size']}" if "size" in data else ""
        # the reference may be of another split than the images that are classified
        split = where.removeprefix(f"{cfg.dataset.name}-").removesuffix(size)
        chosen = [] if split == data["split"] else [f"dataset.split={split}"]
        model = [f"model={cfg.model.name}", *_changed(cfg, "model", "image_size")] if size else []
        kept = ("root", "classes") if chosen else ("root", "classes", "split")
        given = [
            f"dataset={cfg.dataset.name}",
            *_changed(cfg, "dataset", *kept),
            *chosen,
            *model,
            *given,
        ]
    else:
        given = [f"folder=FOLDER name={where}", *given]
    if cfg.evaluation.statistics != str(REPOSITORY / "assets" / "statistics"):
        given.append(f"output={cfg.evaluation.statistics}")
    command = " ".join(["python scripts/make_reference_statistics.py", *given])
    return f"{command}; or set features=none, which scores nothing"


def _changed(cfg: DictConfig, group: str, *keys: str) -> list[str]:
    """Overrides for the values of a group, or for those of ``keys``, that are not the option's."""
    usual = _option(group, cfg[group].name)
    written: Any = OmegaConf.to_container(cfg[group])
    return [
        shlex.quote(f"{group}.{key}={cfg[group][key]}")
        for key in keys or written
        if key in written and written[key] != usual.get(key) and key != "name"
    ]


@cache
def _option(group: str, name: str) -> Mapping[str, Any]:
    """What an option's file holds, with its interpolations; nothing if it has none."""
    path = REPOSITORY / "configs" / group / f"{name}.yaml"
    found: Any = OmegaConf.to_container(OmegaConf.load(path)) if path.is_file() else {}
    return found


def _clip(path: str | None) -> PromptNetwork | None:
    if path is None:
        return None
    from bigain.features.clip import ClipScore  # only here: transformers is slow to import

    return ClipScore(path)


def shard(cfg: DictConfig) -> Shard:
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


def _check_group(group: str, node: dict[str, Any]) -> None:
    if node.get("_target_") is None and group not in OPTIONAL:
        raise BiGainError(f"{group}._target_ must name a class; choose one with {group}=...")
    _check_keys(group, node, group, ABOUT[group])
    name = node.get("name")
    if name is None or not NAME.fullmatch(name):
        raise BiGainError(
            f"{group}.name takes letters, digits and _ . + = -, and no dot in front, as it becomes "
            f"a part of file names; got {shown(name)}"
        )


def _check_keys(group: str, node: dict[str, Any], where: str, about: Mapping[str, Any]) -> None:
    """Refuse unknown keys of a node and of those nested in it, and values of other types."""
    target = node.get("_target_")
    accepted = dict(about)
    check_types(where, {"_target_": target}, {"_target_": str | None})
    if target is not None:
        accepted |= _parameters(where, target)
        if "_args_" in node:
            accepted["_args_"] = list[Any]
    if unknown := sorted(map(str, set(node) - set(accepted) - {"_target_"})):
        raise BiGainError(
            f"{where}.{unknown[0]} is not a key of {target or group}; "
            f"accepted: {', '.join(sorted(accepted))}"
        )
    if target is not None:
        _check_kind(where, target, KINDS.get(group, ImageMetric))
    check_types(where, node, accepted)
    nested = {f"{where}.{k!s}": v for k, v in node.items()}
    nested |= {f"{where}._args_[{i}]": v for i, v in enumerate(node.get("_args_", []))}
    for place, inner in nested.items():
        if isinstance(inner, dict) and "_target_" in inner:
            _check_keys(group, inner, place, {})


def _check_reference(cfg: DictConfig) -> None:
    """Refuse to generate other classes than ADM's reference is of, or a part of the images."""
    reference, data = cfg.evaluation.reference, cfg.dataset
    adm = reference is not None and Path(str(reference)).name.startswith(ADM)
    if not adm or cfg.task.name not in TASKS or not TASKS[cfg.task.name].draws:
        return
    subset = data.get("subset")
    if data.get("classes") != "imagenet1k" or subset is not None:
        given = f"dataset={data.name}" + ("" if subset is None else f" dataset.subset={subset}")
        raise BiGainError(
            f"evaluation.reference={reference} is of all of ImageNet, got {given}; set "
            "dataset=imagenet1k without a subset, or leave out protocol=adm"
        )


def _check_kind(where: str, target: str, kind: type) -> None:
    """Refuse to call anything but a class of the kind that a group takes."""
    found = _named(where, target)
    wanted = [name for name, one in vars(kind).items() if inspect.isfunction(one)]
    lacking = [name for name in wanted if not hasattr(found, name)]
    if lacking or not inspect.isclass(found):
        reason = f"it lacks {lacking[0]}" if lacking else "it is no class"
        raise BiGainError(f"{where}._target_={target} is no {kind.__name__}: {reason}")


def _parameters(where: str, target: str) -> dict[str, Any]:
    """The annotations of what a ``_target_`` takes."""
    found = _named(where, target)
    try:
        return annotations(found)
    except (ValueError, TypeError) as error:
        raise BiGainError(f"{where}._target_={target} takes no settings by name") from error


def _named(where: str, target: str) -> Any:
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise BiGainError(
            f"{where}._target_={target} cannot be imported: {one_line(error)}"
        ) from error


def _check_list(key: str, value: object, accepted: str) -> None:
    if not isinstance(value, ListConfig):
        raise BiGainError(f"{key} must be {accepted}; got {value}")


def _check_choice(key: str, value: str, accepted: tuple[str, ...]) -> None:
    if value not in accepted:
        raise BiGainError(f"{key} must be one of {', '.join(accepted)}; got {value}")
