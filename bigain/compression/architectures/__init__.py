"""One adapter per family of denoisers, found by the class of the model.

To add a family, write its adapter in a new file in this folder and add it to `ADAPTERS`.
"""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

from torch import nn

from bigain.compression.architectures.base import (
    DECIDE_ON,
    SITES,
    Architecture,
    Block,
    Call,
    Part,
)
from bigain.compression.architectures.dit import DiT
from bigain.compression.architectures.flux import Flux
from bigain.compression.architectures.pixart import PixArt
from bigain.compression.architectures.sd3 import SD3
from bigain.compression.architectures.unet import UNet
from bigain.compression.wrapping import unwrap

__all__ = [
    "ADAPTERS",
    "DECIDE_ON",
    "SITES",
    "Architecture",
    "Block",
    "Call",
    "Part",
    "architecture_of",
    "find_denoiser",
    "select_blocks",
]

ADAPTERS: dict[type[nn.Module], type[Architecture]] = {
    adapter.denoiser: adapter for adapter in (UNet, DiT, PixArt, SD3, Flux)
}


def find_denoiser(model: Any) -> nn.Module:
    """The denoiser of a class in `ADAPTERS` that ``model`` is, wraps or holds.

    Raises:
        TypeError: if there is none.
        ValueError: if it was compiled ahead of time.
    """
    components = dict.fromkeys(adapter.component for adapter in ADAPTERS.values())
    held = [getattr(model, component, None) for component in components]
    for candidate in map(unwrap, [model, *held]):
        if _adapter(candidate) is not None:
            found: nn.Module = candidate
            return found
    given = type(model).__name__
    if names := [type(unwrap(part)).__name__ for part in held if part is not None]:
        given += f" with {' and '.join(names)}"
    accepted = ", ".join(known.__name__ for known in ADAPTERS)
    raise TypeError(
        f"compress takes a denoiser of diffusers ({accepted}) or a pipeline that holds one; "
        f"got {given}"
    )


def architecture_of(model: Any) -> Architecture:
    """The adapter around the denoiser that ``model`` is, wraps or holds.

    Raises:
        TypeError: if there is none.
        ValueError: if it was compiled ahead of time.
    """
    denoiser = find_denoiser(model)
    adapter = _adapter(denoiser)
    assert adapter is not None  # find_denoiser returns only models with an adapter
    return adapter(denoiser)


def select_blocks(model: Any, blocks: str | Sequence[int]) -> list[Block]:
    """The transformer blocks to compress, in forward order.

    Args:
        model: a denoiser or a pipeline that holds one, as in `find_denoiser`.
        blocks: "default", "all", or a list of places.

    Raises:
        TypeError: if the model is of an unsupported class.
        ValueError: if a named place does not exist, or no block is chosen.
    """
    architecture = architecture_of(model)
    every, what = architecture.blocks(), architecture.places
    present = sorted({block.place for block in every})
    if blocks == "all":
        chosen = set(present)
    elif blocks == "default":
        chosen = architecture.default_places()
    elif not _whole_numbers(blocks):
        raise ValueError(
            f"blocks must be default, all or a list of {what}, got {blocks!r}; "
            f"this model's {what}: {present}"
        )
    else:
        chosen = set(map(int, blocks))
        if missing := sorted(chosen - set(present)):
            raise ValueError(f"blocks {missing} do not exist; this model's {what}: {present}")
    if not chosen:
        raise ValueError(
            f"blocks={blocks!r} leaves nothing to compress; this model's {what}: {present}"
        )
    return [block for block in every if block.place in chosen]


def _whole_numbers(given: object) -> bool:
    """Whether this is a list, or another collection, of whole numbers."""
    try:
        items = list(given)  # type: ignore[call-overload]
    except TypeError:  # a number, or an array without axes
        return False
    return all(isinstance(one, Integral) and not isinstance(one, bool) for one in items)


def _adapter(model: Any) -> type[Architecture] | None:
    """The adapter for the model's class, or for the nearest class that it derives from."""
    return next((ADAPTERS[kind] for kind in type(model).__mro__ if kind in ADAPTERS), None)
