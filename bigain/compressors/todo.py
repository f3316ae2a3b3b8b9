"""ToDo, token downsampling (Smith et al. 2024, arXiv 2402.13573)."""

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from bigain.compressors import downsample
from bigain.compressors.base import (
    Compressor,
    Plan,
    check_choice,
    check_whole,
    plain_numbers,
    strength,
)
from bigain.compressors.tokens import TokenGrid
from bigain.utils.randomness import KeyedStream


@dataclass(frozen=True)
class ToDo(Compressor):
    """Take keys and values from the grid downsampled by ``factor``, and leave queries alone.

    Args:
        factor: side of a coarse cell in tokens; 1 changes nothing.
        pool: the "nearest" token to the centre of each cell, or the cell's "mean".

    Example:
        >>> import bigain
        >>> with bigain.compress(pipe, bigain.ToDo(2)):
        ...     image = pipe("a photo of a cat").images[0]
    """

    factor: int = strength(2)
    pool: str = "nearest"

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_whole("ToDo", "factor", self.factor, 1)
        check_choice("ToDo", "pool", self.pool, ("nearest", "mean"))

    @property
    def shortens(self) -> frozenset[str]:
        return frozenset({"keys_values"})

    @property
    def content_dependent(self) -> bool:
        return False

    def plan(
        self, x: Tensor, grid: TokenGrid, t: Tensor | None = None, rng: KeyedStream | None = None
    ) -> Plan:
        grid.check(x)
        downsample.check_fits("ToDo", self.factor, grid)
        pool = downsample.nearest if self.pool == "nearest" else downsample.mean
        return Plan(keys_values=partial(pool, grid=grid, factor=self.factor))
