"""Objects that a configuration names by ``_target_``: their keys are checked, then they are built.

Such a node names a class and its arguments, so the accepted keys are the class's own, and a new
method needs no schema.
"""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from bigain.backbones import Backbone
from bigain.compressors import Compressor
from bigain.datasets import Dataset
from bigain.errors import BiGainError, one_line
from bigain.experiments.logging import Logger
from bigain.experiments.schema import ABOUT
from bigain.features.base import FeatureNetwork
from bigain.metrics.image_metric import ImageMetric
from bigain.tasks import Task
from bigain.utils.paths import NAME
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
OPTIONAL = ("compressor", "features", "logger")  # groups of which _target_: null chooses nothing


def build(cfg: DictConfig, group: str) -> Any:
    """The object that a group names; None if its ``_target_`` is null.

    Raises:
        BiGainError: if the group's keys are not those of its class, or the class refuses their
            values, in its own words.
    """
    node = cfg[group]
    if node.get("_target_") is None:
        return None
    found: Any = OmegaConf.to_container(node, resolve=True)
    check_group(group, found)
    try:
        return made_of({k: v for k, v in found.items() if k not in ABOUT[group]})
    except BiGainError:
        raise
    except Exception as error:  # the class may raise any
        raise BiGainError(f"{group}={node.get('name')}: {one_line(error)}") from error


def made_of(node: Any) -> Any:
    """The object that a checked node describes; any other value as it is.

    Hydra's `instantiate` does the same for the nodes that `check_node` checks, at ten times the
    cost.
    """
    if not isinstance(node, dict) or "_target_" not in node:
        return node
    made = {key: made_of(value) for key, value in node.items() if not key.startswith("_")}
    return get_class(node["_target_"])(*map(made_of, node.get("_args_", [])), **made)


def check_group(group: str, node: dict[str, Any]) -> None:
    """Refuse a group without a name or a class, and any key that its class does not take.

    Args:
        node: the group's plain values.

    Raises:
        BiGainError: naming the key, what was given and what is accepted.
    """
    if node.get("_target_") is None and group not in OPTIONAL:
        raise BiGainError(f"{group}._target_ must name a class; choose one with {group}=...")
    check_node(group, node, group, ABOUT[group])
    name = node.get("name")
    if name is None or not NAME.fullmatch(name):
        raise BiGainError(
            f"{group}.name takes letters, digits and _ . + = -, and no dot in front, as it becomes "
            f"a part of file names; got {shown(name)}"
        )


def check_node(group: str, node: dict[str, Any], where: str, about: Mapping[str, Any]) -> None:
    """Refuse unknown keys of a node and of those nested in it, and values of other types.

    Args:
        group: whose kind of object the node describes; a metric if it is none of `KINDS`.
        node: plain values, with the class under ``_target_``.
        where: the node's own key.
        about: types of the keys that are about the node, and not arguments of its class.

    Raises:
        BiGainError: naming the key, what was given and what is accepted.
    """
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
            check_node(group, inner, place, {})


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
        raise BiGainError(
            f"{where}._target_={target} takes no settings by name; name another class"
        ) from error


def _named(where: str, target: str) -> Any:
    """What a dotted name refers to."""
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise BiGainError(
            f"{where}._target_={target} cannot be imported: {one_line(error)}"
        ) from error
