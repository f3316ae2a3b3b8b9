"""What a visit to a GPU measures, the most valuable first."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from omegaconf import DictConfig, OmegaConf


@dataclass(frozen=True)
class Item:
    """Something to measure, small enough to be worth starting near the end of a budget.

    Attributes:
        key: names it in the results.
        seconds: how long it should take at most on an H100; a guess, until it was measured once.
        suite: the module of this package that measures it.
        settings: what differs from configs/benchmark.yaml.
        kernels: whether the Triton kernels are used; None: if their tests have passed.
    """

    key: str
    seconds: float
    suite: str
    settings: dict[str, Any] = field(default_factory=dict)
    kernels: bool | None = None


def items(cfg: DictConfig, device: str) -> list[Item]:
    """The items of configs/visit, in order.

    Args:
        device: the type of the device, "cuda" or "cpu".
    """
    visit: Any = OmegaConf.to_container(cfg.visit, resolve=True)
    return [
        *_tests(visit),
        *_operators(visit, device),
        *_forwards(visit, device),
        *_tasks(visit, device),
        *_other_methods(visit, device),
        Item("extremes", 60, "extremes"),
    ]


def _tests(visit: dict[str, Any]) -> Iterator[Item]:
    for arguments in visit["tests"]:
        key = f"tests: {' '.join(arguments)}"
        yield Item(key, 90, "gpu_tests", {"gpu_tests": {"arguments": arguments}})


def _operators(visit: dict[str, Any], device: str) -> Iterator[Item]:
    own = visit["operators"]
    ways = ("torch", "kernels") if device == "cuda" else ("torch",)
    for dtype, shape, way in product(visit["dtypes"], own["shapes"], ways):
        tokens, channels, batch = shape["tokens"], shape["channels"], shape["batch"]
        key = f"operators: {tokens} tokens of {channels} channels, batch {batch}, {dtype}, {way}"
        settings = {"methods": own["methods"], "dtypes": [dtype], "shapes": [shape]}
        yield Item(key, 12, "operators", {"operators": settings}, way == "kernels")


def _forwards(visit: dict[str, Any], device: str) -> Iterator[Item]:
    own = visit["forwards"]
    for (about, size, settings), compiled in product(_cases(visit, device), (False, True)):
        if not compiled:
            case = {**settings, "methods": own["first"], "whole": None}
            yield _case(f"forwards: {about}", 40, case, own)
        elif own["compile"] is not None:
            case = {**settings, "batch_size": size, "methods": own["first"]}
            case |= {"compile": own["compile"], "repeats": own["repeats"]}
            yield Item(f"compiled: {about}", 150, "compiled", {"compiled": case})


def _other_methods(visit: dict[str, Any], device: str) -> Iterator[Item]:
    for about, _, settings in _cases(visit, device):
        case = {**settings, "methods": visit["forwards"]["then"], "whole": None}
        yield _case(f"forwards, every method: {about}", 120, case, visit["forwards"])


def _cases(visit: dict[str, Any], device: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
    own = visit["forwards"]
    for size, dtype, model in product(own["batch_sizes"], visit["dtypes"], own["models"]):
        side = model["sample_size"]
        name = model["model"] + (f" at {8 * side} pixels" if side else "")
        settings = {**model, "dtype": dtype, "batch_size": {device: size}}
        yield f"{name}, batch {size}, {dtype}", size, settings


def _case(key: str, seconds: float, case: dict[str, Any], own: dict[str, Any]) -> Item:
    _, _, title = key.partition(": ")
    repeats = {"repeats": own["repeats"], "repeats_of_blocks": own["repeats"]}
    return Item(key, seconds, "forwards", {"forwards": {"cases": {title: case}, **repeats}})


def _tasks(visit: dict[str, Any], device: str) -> Iterator[Item]:
    own, drawn = visit["classification"], visit["generation"]
    dtype = visit["dtypes"][0]
    for name in own["models"]:
        chosen = {"models": {device: [name]}, "images": {device: own["images"]}, "compile": None}
        chosen = {**own, **chosen, "dtypes": [dtype]}
        yield Item(f"classification: {name}", 120, "classification", {"classification": chosen})
        chosen = {"models": {device: [name]}, "images": {device: drawn["images"]}, "compile": None}
        chosen = {**drawn, **chosen, "dtype": dtype}
        yield Item(f"generation: {name}", 60, "generation", {"generation": chosen})
