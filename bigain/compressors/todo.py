"""ToDo, token downsampling (Smith et al. 2024, arXiv 2402.13573)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from bigain.compressors import downsample
from bigain.compressors.base import Compressor, Plan, plain_numbers, strength
from bigain.compressors.tokens import TokenGrid
from bigain.utils.randomness import KeyedStream
from bigain.utils.setting_types import check_choice


@dataclass(frozen=True)
class ToDo(Compressor):
    """Take keys and values from the grid downsampled by ``factor``, and leave queries alone.

    Args:
        factor: side of a coarse cell in tokens; 1 changes nothing. A mapping such as {64: 4, 32: 2}
            gives one for each height of the token grid, where blocks have several.
        pool: the "nearest" token to the centre of each cell, or the cell's "mean".
        place: which token "nearest" takes: the "fixed" one at the centre; one that moves from block
            to block in a "cycle"; or one drawn at "random" for every cell, image, timestep and
            block.
        queries: "full", or "coarse" for attention on the coarse grid alone, whose output is copied
            back to the tokens of each cell: the control for what whole queries are worth.

    Example:
        >>> import bigain
        >>> with bigain.compress(pipe, bigain.ToDo(2)):
        ...     image = pipe("a photo of a cat").images[0]
    """

    factor: int | Mapping[int, int] = strength(2)
    pool: str = "nearest"
    place: str = "fixed"
    queries: str = "full"

    def __post_init__(self) -> None:
        plain_numbers(self)
        object.__setattr__(self, "factor", downsample.checked_factor("ToDo", self.factor))
        check_choice("ToDo", "pool", self.pool, ("nearest", "mean"))
        check_choice("ToDo", "place", self.place, downsample.PLACES)
        if self.place != "fixed" and (self.pool == "mean" or self.queries == "coarse"):
            raise ValueError(
                f"ToDo: place={self.place} moves the token that pool=nearest takes for "
                "queries=full; set these, or place=fixed"
            )
        check_choice("ToDo", "queries", self.queries, ("full", "coarse"))

    @property
    def shortens(self) -> frozenset[str]:
        return frozenset({"keys_values" if self.queries == "full" else "queries"})

    @property
    def content_dependent(self) -> bool:
        return False

    def plan(
        self,
        x: Tensor,
        grid: TokenGrid,
        t: Tensor | None = None,
        rng: KeyedStream | None = None,
        block: int = 0,
    ) -> Plan:
        grid.check(x)
        factor = downsample.factor_at("ToDo", self.factor, grid)
        if self.queries == "coarse":
            coarse = downsample.cells_map(x, grid, factor, keep=self.pool == "nearest")
            return Plan(queries=coarse)
        centres = downsample.centres(grid, factor, x.device)
        if self.pool == "mean":
            pool = partial(downsample.mean, grid=grid, factor=factor)
            return Plan(keys_values=pool, key_tokens=centres)
        index = downsample.taken(self.place, x, grid, factor, rng, block)
        return Plan(keys_values=partial(downsample.pick, index=index), key_tokens=index)
