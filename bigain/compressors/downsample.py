"""Keys and values from a coarser grid, shared by ToDo and IE-KVD."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from bigain.compressors import places
from bigain.compressors.constant import constant
from bigain.compressors.tokens import TokenGrid, TokenMap, take
from bigain.utils.randomness import KeyedStream
from bigain.utils.setting_types import check_whole

# Which token of each cell is taken for it: the one nearest to its centre, one place that changes
# from block to block, or a random one.
PLACES = ("fixed", "cycle", "random")


class Factors(dict[int, int]):
    """A factor for each height of the token grid; unlike a dict it can be hashed."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple(self.items()))


def checked_factor(name: str, factor: int | Mapping[int, int]) -> int | Factors:
    """A factor, or one for each height of the token grid.

    Raises:
        ValueError: if it is neither.
    """
    if not isinstance(factor, Mapping):
        check_whole(name, "factor", factor, 1)
        return factor
    if not factor:
        raise ValueError(f"{name}: factor is empty; name one for each height, as in {{64: 4}}")
    for height, one in factor.items():
        check_whole(name, "the height of a grid in factor", height, 1)
        check_whole(name, f"factor of grids of height {height}", one, 1)
    return Factors(sorted(factor.items()))


def factor_at(name: str, factor: int | Mapping[int, int], grid: TokenGrid) -> int:
    """The factor on this grid.

    Raises:
        ValueError: if there is none, or it is larger than the grid.
    """
    if isinstance(factor, Mapping):
        if grid.height not in factor:
            raise ValueError(
                f"{name}: factor names grids of height {', '.join(map(str, factor))}, and this "
                f"block's is {grid.height}x{grid.width}; add {grid.height}, or leave out the block "
                "with blocks="
            )
        factor = factor[grid.height]
    check_fits(name, factor, grid)
    return factor


def check_fits(name: str, factor: int, grid: TokenGrid) -> None:
    """Refuse a factor larger than the grid."""
    if factor > min(grid.height, grid.width):
        raise ValueError(
            f"{name}: factor {factor} leaves nothing of a {grid.height}x{grid.width} token grid; "
            f"at most {min(grid.height, grid.width)} fits"
        )


def taken(
    place: str, x: Tensor, grid: TokenGrid, factor: int, rng: KeyedStream | None, block: int
) -> Tensor:
    """The token that is taken from each cell, int64 [cells], or [B, cells] if it is drawn.

    Args:
        place: one of `PLACES`.
        x: [B, N, C].
    """
    if place == "fixed" or factor == 1:
        return centres(grid, factor, x.device)
    if place == "cycle":
        return starts(grid, factor, places.in_block(block, factor), x.device)
    first = starts(grid, factor, 0, x.device)
    chosen = places.drawn(rng, x, factor, len(first))
    return first + chosen // factor * grid.width + chosen % factor


def pick(x: Tensor, index: Tensor) -> Tensor:
    """The tokens of ``x`` [B, N, C] that `taken` names, [B, cells, C]."""
    if index.ndim == 1:
        return x.index_select(1, index)
    return take(x, index if len(index) == len(x) else index.expand(len(x), -1))


@constant
def starts(grid: TokenGrid, factor: int, place: int, device: torch.device) -> Tensor:
    """The token at one place of each cell, int64 [(h//s)*(w//s)].

    Args:
        place: its number, row by row, among the s*s at the top left of the cell, which is larger
            where s does not divide the sides.
    """
    down, right = divmod(place, factor)
    return _crossings(
        grid,
        [i * grid.height // (grid.height // factor) + down for i in range(grid.height // factor)],
        [i * grid.width // (grid.width // factor) + right for i in range(grid.width // factor)],
        device,
    )


@constant
def centres(grid: TokenGrid, factor: int, device: torch.device) -> Tensor:
    """The token nearest to each coarse cell's centre, int64 [(h//s)*(w//s)].

    A cell spans h/(h//s) x w/(w//s) tokens, as in torch's nearest-exact mode. If s divides both
    sides, the result is token s//2 of each cell along either axis (bottom-right at s=2).
    """
    rows, columns = (
        [(2 * i + 1) * side // (2 * (side // factor)) for i in range(side // factor)]
        for side in (grid.height, grid.width)
    )
    return _crossings(grid, rows, columns, device)


def _crossings(
    grid: TokenGrid, rows: Sequence[int], columns: Sequence[int], device: torch.device
) -> Tensor:
    """The tokens where these rows and columns of the grid meet, int64 [rows * columns]."""
    return torch.tensor([r * grid.width + c for r in rows for c in columns], device=device)


def nearest(x: Tensor, grid: TokenGrid, factor: int) -> Tensor:
    """The tokens at `centres`, [B, N, C] to [B, (h//s)*(w//s), C]."""
    return pick(x, centres(grid, factor, x.device))


def cells_map(x: Tensor, grid: TokenGrid, factor: int, keep: bool) -> TokenMap:
    """The map of each factor x factor cell to one slot.

    Args:
        x: [B, N, C].
        keep: a slot holds the token that `nearest` takes, instead of the mean.

    Raises:
        ValueError: if the factor does not divide both sides.
    """
    if grid.height % factor or grid.width % factor:
        raise ValueError(
            f"a {grid.height}x{grid.width} token grid is not made of whole {factor}x{factor} "
            "cells, which coarse queries need; choose another factor, or queries=full"
        )
    tokens = torch.arange(grid.tokens, device=x.device)
    rows, columns = tokens // grid.width // factor, tokens % grid.width // factor
    slots = (rows * (grid.width // factor) + columns).expand(len(x), -1)
    middles = centres(grid, factor, x.device).expand(len(x), -1)
    found = TokenMap(slots, grid.tokens // factor**2, middles if keep else None)
    found.middles = middles
    return found


def mean(x: Tensor, grid: TokenGrid, factor: int) -> Tensor:
    """The mean of each whole factor x factor cell, [B, N, C] to [B, (h//s)*(w//s), C].

    Rows and columns that do not fill a whole cell are dropped.
    """
    # channels last, like the tokens: on a CPU 10 to 30 times as fast as a mean over two axes
    z = x.unflatten(1, (grid.height, grid.width)).permute(0, 3, 1, 2)
    return F.avg_pool2d(z, factor).permute(0, 2, 3, 1).flatten(1, 2)
