"""Which token of each cell a method takes, where it need not be the same one in every block.

A method that takes the same place of every cell in every block adds all its errors up on the same
tokens. Taking another place from block to block spreads them over the grid at no cost.
"""

from functools import cache

import torch
from torch import Tensor

from bigain.compressors import kernels
from bigain.compressors.base import keyed
from bigain.compressors.matching import cell_tokens, split_cells
from bigain.compressors.spectrum import score
from bigain.compressors.tokens import TokenGrid
from bigain.utils.randomness import KeyedStream


@cache
def order(stride: int) -> tuple[int, ...]:
    """The places of a cell, numbered row by row, each as far as possible from those before it.

    Distances are taken around the edges, because cells repeat; the order at stride 2 is that of
    Bayer's matrix, 0, 3, 1, 2.
    """
    found = [0]
    while len(found) < stride**2:
        free = [place for place in range(stride**2) if place not in found]
        found.append(max(free, key=lambda p: min(_distance(p, q, stride) for q in found)))
    return tuple(found)


def _distance(one: int, two: int, stride: int) -> int:
    """The squared distance between two places around the edges of the cell."""
    along = (abs(a - b) for a, b in zip(divmod(one, stride), divmod(two, stride), strict=True))
    return sum(min(d, stride - d) ** 2 for d in along)


def in_block(block: int, stride: int) -> int:
    """The place that a cycle over the blocks takes in this one."""
    places = order(stride)
    return places[block % len(places)]


def without_scores(
    destinations: str, x: Tensor, stride: int, cells: int, rng: KeyedStream | None, block: int
) -> Tensor:
    """The place in each cell of a destination that no score chooses, int64 [B, cells].

    Args:
        destinations: "first", the top left; "cycle", one place that changes from block to block; or
            anything else, for random ones.
        x: tokens [B, N, C], of which only the shape and the device are read.
    """
    if destinations in ("first", "cycle"):
        place = 0 if destinations == "first" else in_block(block, stride)
        return torch.full((len(x), cells), place, dtype=torch.int64, device=x.device)
    return drawn(rng, x, stride, cells)


def drawn(rng: KeyedStream | None, x: Tensor, stride: int, cells: int) -> Tensor:
    """A random place for each cell of each sample, int64 [B, cells]."""
    return keyed(rng, x).integers(stride**2, cells).expand(len(x), -1)


def by_score(scores: Tensor, destinations: str, block: int) -> Tensor:
    """The place in each cell that its tokens' scores choose.

    Args:
        scores: [B, cells, stride**2].
        destinations: the "lowest" score, the "highest", or "cycle": the lowest in the first block,
            the second lowest in the next, and so on around.

    Returns:
        int64 [B, cells].
    """
    if destinations == "lowest":
        return scores.argmin(-1)
    if destinations == "highest":
        return scores.argmax(-1)
    rank = block % scores.shape[-1]
    return scores.argsort(dim=-1, stable=True)[..., rank]


def split_by_score(
    name: str, x: Tensor, grid: TokenGrid, stride: int, destinations: str, block: int
) -> tuple[Tensor, Tensor]:
    """Destinations and sources, as `split_cells` returns them, where a score chooses among a cell.

    Args:
        name: of the score.
        x: tokens [B, N, C].
        destinations: as in `by_score`.
    """
    whole = grid.height % stride == 0 == grid.width % stride
    plain = name == "laplacian_l1" and destinations != "cycle"
    if plain and whole and kernels.usable(x):
        return kernels.smoothest(x, grid.height, grid.width, stride, destinations == "highest")
    scores = score(name, x, grid)[:, cell_tokens(grid, stride, x.device)]
    return split_cells(by_score(scores, destinations, block), grid, stride)
