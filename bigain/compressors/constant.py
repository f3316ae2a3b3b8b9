"""Tensors that depend on the shape of a grid alone, made once for each device."""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import torch
from torch import Tensor
from torch.compiler import is_compiling

P = ParamSpec("P")
MOST = 256  # tensors that each function keeps


def constant(make: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """Keep what ``make`` returns for each of its arguments, which must be hashable.

    torch.compile folds such tensors into its graph by itself. Tensors made under a mode that
    replaces them, as fake tensors are, are not kept.
    """
    kept: dict[object, Tensor] = {}

    @wraps(make)
    def made(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        if is_compiling():
            return make(*args, **kwargs)
        key = (args, tuple(kwargs.items()))
        found = kept.get(key)
        if found is None:
            with torch.inference_mode(False):  # so that autograd can use it, too
                found = make(*args, **kwargs)
            if type(found) is Tensor:
                if len(kept) >= MOST:
                    kept.clear()
                kept[key] = found
        return found

    return made


@constant
def positions(count: int, device: torch.device) -> Tensor:
    """0 to count - 1, int64 [count]."""
    return torch.arange(count, device=device)


@constant
def offsets(batch: int, tokens: int, device: torch.device) -> Tensor:
    """Where each sample's tokens begin once they are flattened, int64 [batch, 1]."""
    return (torch.arange(batch, device=device) * tokens).unsqueeze(1)
