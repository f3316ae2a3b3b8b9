"""What the planner of a compressed model decided, and by what."""

from typing import Any, NamedTuple

from torch import Tensor

from bigain.compressors import Compressor, Plan, TokenGrid
from bigain.utils.randomness import KeyedStream


class Planned(NamedTuple):
    """A plan of one block, with the arguments of `Compressor.plan` that it was made from."""

    x: Tensor
    grid: TokenGrid
    t: Tensor
    rng: KeyedStream
    block: int
    plan: Plan


def planned(handle: Any) -> list[Planned]:
    """Every plan that the model of a handle makes from now on."""
    seen: list[Planned] = []
    planner = handle.planner

    def watch(
        compressor: Compressor, x: Tensor, grid: TokenGrid, t: Tensor, rng: KeyedStream, block: int
    ) -> Plan:
        plan: Plan = planner(compressor, x, grid, t, rng, block)
        seen.append(Planned(x, grid, t, rng, block, plan))
        return plan

    handle.planner = watch
    return seen
