"""How generated images are scored: the feature network, the reference and the metrics."""

import json
import shlex
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from bigain.errors import BiGainError, one_line
from bigain.experiments.schema import EVALUATION
from bigain.experiments.targets import build, check_node, made_of
from bigain.metrics.image_metric import ImageMetric
from bigain.store.reference_statistics import ADM
from bigain.tasks import TASKS
from bigain.tasks.scoring import PromptNetwork, Scoring, open_reference
from bigain.utils.devices import device_of
from bigain.utils.paths import REPOSITORY
from bigain.utils.setting_types import check_types


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
        open_reference(where, Path(cfg.evaluation.statistics), network, _how_to_make(cfg)),
        device_of(cfg.device),
        cfg.batch_size,
        _clip(cfg.evaluation.clip),
        cfg.evaluation.allow_few,
    )


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
        check_node("evaluation", node, where, {})
    try:
        return list(_metrics(json.dumps(list(chosen.values()))))
    except Exception as error:  # the class may raise any
        raise BiGainError(f"evaluation: {one_line(error)}") from error


def metric_kinds() -> list[type[ImageMetric]]:
    """The classes of the metrics that configs/config.yaml names, in its order."""
    return [get_class(node["_target_"]) for node in _evaluation()["metrics"].values()]


def check_evaluation(cfg: DictConfig) -> None:
    """Refuse settings of ``evaluation`` that no run can use, and ADM's reference for other images.

    Args:
        cfg: the configuration, with interpolations resolved.

    Raises:
        BiGainError: naming the key, what was given and what is accepted.
    """
    plain: Any = OmegaConf.to_container(cfg.evaluation)
    check_types("evaluation", plain, EVALUATION)
    metrics(cfg)
    _check_reference(cfg)


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


@cache
def _evaluation() -> Mapping[str, Any]:
    """The keys of `evaluation` as configs/config.yaml has them, with their interpolations."""
    loaded: Any = OmegaConf.load(REPOSITORY / "configs" / "config.yaml")
    found: Any = OmegaConf.to_container(loaded.evaluation)
    return found


@lru_cache(maxsize=64)  # as the jobs of a table share them
def _metrics(nodes: str) -> tuple[ImageMetric, ...]:
    return tuple(map(made_of, json.loads(nodes)))


def _how_to_make(cfg: DictConfig) -> str | None:
    """The command that makes the statistics ``evaluation.reference``; None if they are ADM's."""
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
