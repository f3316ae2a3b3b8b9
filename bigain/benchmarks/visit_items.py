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
    """The items of configs/visit, in order: all of the first dtype come before the others.

    Args:
        device: the type of the device, "cuda" or "cpu".
    """
    visit: Any = OmegaConf.to_container(cfg.visit, resolve=True)
    found = list(_tests(visit))
    for number, dtype in enumerate(visit["dtypes"]):
        found += [*_operators(visit, device, dtype), *_forwards(visit, device, dtype, "first")]
        if number == 0:
            found += [*_tasks(visit, device, dtype), Item("extremes", 60, "extremes")]
        found += _compiled(visit, dtype)
    for dtype in visit["dtypes"]:
        found += _forwards(visit, device, dtype, "then")
    return found


def _tests(visit: dict[str, Any]) -> Iterator[Item]:
    for arguments in visit["tests"]:
        key = f"tests: {' '.join(arguments)}"
        yield Item(key, 90, "gpu_tests", {"gpu_tests": {"arguments": arguments}})


def _operators(visit: dict[str, Any], device: str, dtype: str) -> Iterator[Item]:
    own = visit["operators"]
    ways = ("torch", "kernels") if device == "cuda" else ("torch",)
    for shape, way in product(own["shapes"], ways):
        tokens, channels, batch = shape["tokens"], shape["channels"], shape["batch"]
        key = f"operators: {tokens} tokens of {channels} channels, batch {batch}, {dtype}, {way}"
        settings = {"methods": own["methods"], "dtypes": [dtype], "shapes": [shape]}
        yield Item(key, 12, "operators", {"operators": settings}, way == "kernels")


def _forwards(visit: dict[str, Any], device: str, dtype: str, which: str) -> Iterator[Item]:
    own = visit["forwards"]
    kind, seconds = ("forwards", 40) if which == "first" else ("forwards, every method", 120)
    repeats = {"repeats": own["repeats"], "repeats_of_blocks": own["repeats"]}
    for title, size, model in _cases(own, dtype):
        case = {**model, "dtype": dtype, "batch_size": {device: size}}
        case |= {"methods": own[which], "whole": None}
        yield Item(
            f"{kind}: {title}",
            seconds,
            "forwards",
            {"forwards": {"cases": {title: case}, **repeats}},
        )


def _compiled(visit: dict[str, Any], dtype: str) -> Iterator[Item]:
    own = visit["forwards"]
    if own["compile"] is None:
        return
    for title, size, model in _cases(own, dtype):
        case = {**model, "dtype": dtype, "batch_size": size, "methods": own["compiled"]}
        case |= {"compile": own["compile"], "repeats": own["repeats"]}
        yield Item(f"compiled: {title}", 240, "compiled", {"compiled": case})


def _cases(own: dict[str, Any], dtype: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
    for size, model in product(own["batch_sizes"], own["models"]):
        side = model["sample_size"]
        name = model["model"] + (f" at {8 * side} pixels" if side else "")
        yield f"{name}, batch {size}, {dtype}", size, model


def _tasks(visit: dict[str, Any], device: str, dtype: str) -> Iterator[Item]:
    own, drawn = visit["classification"], visit["generation"]
    for name in own["models"]:
        here: dict[str, Any] = {"models": {device: [name]}, "compile": None}
        chosen = {**own, **here, "images": {device: own["images"]}, "dtypes": [dtype]}
        yield Item(f"classification: {name}", 120, "classification", {"classification": chosen})
        chosen = {**drawn, **here, "images": {device: drawn["images"]}, "dtype": dtype}
        yield Item(f"generation: {name}", 60, "generation", {"generation": chosen})
