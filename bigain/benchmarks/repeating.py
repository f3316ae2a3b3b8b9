"""A model whose forwards recompute some modules and replay the earlier outputs of all others."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from itertools import cycle
from typing import Any

from torch import nn


@contextmanager
def repeating(
    model: nn.Module, inputs: Mapping[str, Any], but: Collection[nn.Module]
) -> Iterator[None]:
    """Inside, a forward of the same ``inputs`` takes little more time than its modules ``but``.

    A first forward records the outputs of the largest modules that contain none of ``but``; their
    forwards then return these outputs. Whatever lies between them, and whatever the model calls
    inside such a module without going through its forward, is recomputed. This does not suit a
    model that modifies a module's output in place.

    Args:
        inputs: keyword arguments of a forward.
        but: modules of the model that keep computing.
    """
    given: dict[nn.Module, list[Any]] = {module: [] for module in _around(model, set(but))}
    hooks = [m.register_forward_hook(lambda m, _, out: given[m].append(out)) for m in given]
    try:
        model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    called = [(module, outputs) for module, outputs in given.items() if outputs]
    for module, outputs in called:
        module.forward = _again(outputs)
    try:
        yield
    finally:
        for module, _ in called:
            del module.forward  # uncovers the class's own forward


def _around(module: nn.Module, but: set[nn.Module]) -> Iterator[nn.Module]:
    """The largest modules that contain none of ``but``, each once."""
    for child in module.children():
        if child in but:
            continue
        if isinstance(child, nn.ModuleList) or not but.isdisjoint(child.modules()):
            yield from _around(child, but)
        else:
            yield child


def _again(outputs: list[Any]) -> Callable[..., Any]:
    """A forward that returns the outputs in turn, and starts over after the last."""
    following = cycle(outputs)
    return lambda *args, **kwargs: next(following)
