"""Refuse a compressor that draws random numbers from anything but the stream that it is given.

Otherwise the classes of one noisy image would get different merges, and results would depend on the
batch. A trial before anything runs finds every source of randomness, also under torch.compile. It
may miss draws that are made only at some timesteps or sizes, so each block's first plan is watched
as well.
"""

import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from bigain.compressors import Compressor, Plan, TokenGrid
from bigain.utils.randomness import KeyedStream

SIDE = 16  # the largest side of the trial's grid, which keeps it to milliseconds


class UnkeyedDrawError(ValueError):
    """A compressor drew random numbers that are not keyed."""

    def __init__(self, compressor: Compressor) -> None:
        name = type(compressor).__name__
        super().__init__(
            f"{name}.plan draws random numbers that are not keyed, so the classes of one image "
            "would get different merges; draw from its argument rng instead: "
            "keyed(rng, x).uniform(grid.tokens) is [batch or 1, tokens] in place of torch.rand, "
            ".normal(...) in place of torch.randn, and .uniform(...).argsort(1) in place of "
            "torch.randperm (from bigain.compressors.base import keyed)"
        )


def check_trial(compressor: Compressor, grid: TokenGrid, channels: int) -> None:
    """Plan twice for two equal samples, on the CPU and at most `SIDE` x `SIDE` tokens.

    Equal samples with equal keys must get equal plans, every time. A compressor that raises an
    error here is let through, because the first forward pass explains the error better.

    Raises:
        UnkeyedDrawError: if the plans differ.
    """
    grid = TokenGrid(min(grid.height, SIDE), min(grid.width, SIDE))
    keys = torch.zeros(2, dtype=torch.int64)
    x = KeyedStream(keys).normal(grid.tokens, channels)
    t = torch.full((2,), 500)
    try:
        with torch.no_grad():
            (one, other), again = (
                _effect(compressor.plan(x, grid, t, KeyedStream(keys)), x) for _ in range(2)
            )
    except Exception:  # a user's compressor may raise anything
        return
    for found in (other, *again):
        if one.shape != found.shape or not torch.allclose(one, found, equal_nan=True):
            raise UnkeyedDrawError(compressor)


def watched(plan: Callable[[], Plan], compressor: Compressor, device: torch.device) -> Plan:
    """The plan, provided that making it left all global generators alone.

    Raises:
        UnkeyedDrawError: if it did not.
    """
    before = list(_states(device))
    found = plan()
    for old, new in zip(before, _states(device), strict=True):
        if not (torch.equal(old, new) if isinstance(old, Tensor) else old == new):
            raise UnkeyedDrawError(compressor)
    return found


def _effect(plan: Plan, x: Tensor) -> Tensor:
    """What the plan makes of the tokens, [B, ...]."""
    merged = plan.queries.undo(plan.queries.apply(x)) if plan.queries else x
    reduced = plan.keys_values(x) if plan.keys_values else x
    return torch.cat([merged, reduced], dim=1)


def _states(device: torch.device) -> Iterator[Any]:
    """The states of the global generators of torch, Python and, if it is in use, NumPy."""
    yield torch.get_rng_state()
    if device.type == "cuda" and not torch.cuda.is_current_stream_capturing():
        yield torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        yield torch.mps.get_rng_state()
    yield random.getstate()
    if (numpy := sys.modules.get("numpy")) is not None:
        kind, keys, *rest = numpy.random.get_state()
        yield kind, keys.tobytes(), *rest
