"""A model whose forwards compute some modules anew, and repeat what all others gave before."""

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

    What the largest modules that hold none of them give is kept from a first forward, and their
    forwards are replaced. What lies between, and what a model calls inside such a module past its
    forward, is computed anew. Not for a model that changes what a module gave in place.

    Args:
        inputs: keyword arguments of a forward.
        but: modules within the model.
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
            del module.forward  # the class's own shows again


def _around(module: nn.Module, but: set[nn.Module]) -> Iterator[nn.Module]:
    """The largest modules that hold none of ``but``, each once."""
    for child in module.children():
        if child in but:
            continue
        if isinstance(child, nn.ModuleList) or not but.isdisjoint(child.modules()):
            yield from _around(child, but)
        else:
            yield child


def _again(outputs: list[Any]) -> Callable[..., Any]:
    """A forward that gives the outputs one after another, and then from the first again."""
    following = cycle(outputs)
    return lambda *args, **kwargs: next(following)
