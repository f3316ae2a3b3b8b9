"""ToMe for Stable Diffusion (Bolya and Hoffman 2023, arXiv 2303.17604)."""

from dataclasses import dataclass

from torch import Tensor

from bigain.compressors import places
from bigain.compressors.base import Compressor, Plan, check_ratio, plain_numbers, strength
from bigain.compressors.matching import merge_into, split_cells
from bigain.compressors.tokens import MERGES, TokenGrid
from bigain.utils.randomness import KeyedStream
from bigain.utils.setting_types import check_choice, check_whole

DESTINATIONS = ("random", "first", "cycle", "unpaired")


@dataclass(frozen=True)
class ToMe(Compressor):
    """Merge the int(ratio*N) tokens most similar to their nearest destination into it.

    Args:
        ratio: share of the tokens to merge away, at most 1 - 1/stride**2.
        stride: side of a cell in tokens; each cell has one destination.
        destinations: "random", drawn anew for every image, timestep and block; "first", the
            top-left token of each cell; "cycle", one place of every cell, which changes from block
            to block; or "unpaired", drawn anew for every class as well, which shows the cost of the
            published code's new draw for every batch (task=classify only).
        merge: what a destination holds after merging: the "mean"; "mlerp", the mean made as long as
            the longest token merged into it; or "keep", the destination itself.
        proportional: add the logarithm of the number of tokens in a slot to the logits of
            self-attention (Bolya et al. 2023, arXiv 2210.09461).
        windows: cut the grid into so many windows along each side, and match only within them.

    Example:
        >>> import bigain
        >>> with bigain.compress(pipe, bigain.ToMe(0.5)):
        ...     image = pipe("a photo of a cat").images[0]
    """

    ratio: float = strength(0.5)
    stride: int = 2
    destinations: str = "random"
    merge: str = "mean"
    proportional: bool = False
    windows: int = 1

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_ratio("ToMe", self.ratio, self.stride)
        check_choice("ToMe", "destinations", self.destinations, DESTINATIONS)
        check_choice("ToMe", "merge", self.merge, MERGES)
        check_whole("ToMe", "windows", self.windows, 1)

    @property
    def shortens(self) -> frozenset[str]:
        return frozenset({"queries"})

    @property
    def paired(self) -> bool:
        return self.destinations != "unpaired"

    def plan(
        self,
        x: Tensor,
        grid: TokenGrid,
        t: Tensor | None = None,
        rng: KeyedStream | None = None,
        block: int = 0,
    ) -> Plan:
        grid.check(x)
        cells = (grid.height // self.stride) * (grid.width // self.stride)
        chosen = places.without_scores(self.destinations, x, self.stride, cells, rng, block)
        merged = int(self.ratio * grid.tokens)
        queries = merge_into(
            x,
            split_cells(chosen, grid, self.stride),
            grid,
            self.stride,
            merged,
            merge=self.merge,
            proportional=self.proportional,
            windows=self.windows,
        )
        return Plan(queries=queries)
