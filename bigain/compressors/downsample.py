"""Keys and values from a coarser grid, shared by ToDo and IE-KVD."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from bigain.compressors.base import check_whole
from bigain.compressors.tokens import TokenGrid, TokenMap


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


def nearest(x: Tensor, grid: TokenGrid, factor: int) -> Tensor:
    """The token nearest to each coarse cell's centre, [B, N, C] to [B, (h//s)*(w//s), C].

    A cell spans h/(h//s) x w/(w//s) tokens, as in torch's nearest-exact mode. If s divides both
    sides, the result is token s//2 of each cell along either axis (bottom-right at s=2).
    """
    rows, columns = (
        [(2 * i + 1) * side // (2 * (side // factor)) for i in range(side // factor)]
        for side in (grid.height, grid.width)
    )
    index = [r * grid.width + c for r in rows for c in columns]
    return x[:, index]


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
    kept = nearest(tokens.expand(len(x), -1), grid, factor) if keep else None
    return TokenMap(slots, grid.tokens // factor**2, kept)


def mean(x: Tensor, grid: TokenGrid, factor: int) -> Tensor:
    """The mean of each whole factor x factor cell, [B, N, C] to [B, (h//s)*(w//s), C].

    Rows and columns that do not fill a whole cell are dropped.
    """
    # channels last, like the tokens: on a CPU 10 to 30 times as fast as a mean over two axes
    z = x.unflatten(1, (grid.height, grid.width)).permute(0, 3, 1, 2)
    return F.avg_pool2d(z, factor).permute(0, 2, 3, 1).flatten(1, 2)
