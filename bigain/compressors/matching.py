"""Cells of the grid and bipartite matching (ToMe for SD, Bolya and Hoffman 2023, arXiv 2303.17604).

One token of each stride x stride cell is a destination; all others are sources. Rows and columns
that do not fill a cell hold sources only.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from bigain.compressors.tokens import TokenGrid, TokenMap, take


def cell_tokens(grid: TokenGrid, stride: int, device: torch.device) -> Tensor:
    """Token indices of every whole cell, int64 [cells, stride**2], both in row-major order."""
    rows, columns = grid.height // stride, grid.width // stride
    if not rows * columns:
        raise ValueError(
            f"a {grid.height}x{grid.width} token grid holds no {stride}x{stride} cell; "
            "lower the stride or leave this block uncompressed"
        )
    index = torch.arange(grid.tokens, device=device).view(grid.height, grid.width)
    index = index[: rows * stride, : columns * stride]
    return (
        index.unflatten(1, (columns, stride))
        .unflatten(0, (rows, stride))
        .transpose(1, 2)
        .flatten(2, 3)
        .flatten(0, 1)
    )


def loose_tokens(grid: TokenGrid, stride: int, device: torch.device) -> Tensor:
    """Token indices outside every whole cell, int64 [loose]."""
    index = torch.arange(grid.tokens, device=device).view(grid.height, grid.width)
    rows, columns = (grid.height // stride) * stride, (grid.width // stride) * stride
    return torch.cat([index[:rows, columns:].flatten(), index[rows:].flatten()])


def split_cells(chosen: Tensor, grid: TokenGrid, stride: int) -> tuple[Tensor, Tensor]:
    """Destinations and sources, without sorting.

    Args:
        chosen: which token of its cell is the destination, int64 [B, cells] in [0, stride**2).

    Returns:
        Token indices of the destinations [B, cells] and of the sources [B, N - cells].
    """
    cells = cell_tokens(grid, stride, chosen.device).expand(len(chosen), -1, -1)
    chosen = chosen.unsqueeze(-1)
    others = torch.arange(stride**2 - 1, device=chosen.device)
    others = others + (others >= chosen)  # 0..s^2-1 without the chosen one
    loose = loose_tokens(grid, stride, chosen.device).expand(len(chosen), -1)
    return cells.gather(2, chosen).squeeze(-1), torch.cat(
        [cells.gather(2, others).flatten(1), loose], 1
    )


def precise(x: Tensor) -> Tensor:
    """``x`` in float32 at least: half precision would tie many scores and similarities."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def unit(x: Tensor) -> Tensor:
    """Tokens of length one."""
    return F.normalize(precise(x), dim=-1)


def nearest_destination(x: Tensor, sources: Tensor, destinations: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine similarity [B, S] of each source's best destination, and that token's index [B, S]."""
    best, match = (take(x, sources) @ take(x, destinations).mT).max(-1)
    return best, destinations.gather(1, match)


def merge_into(x: Tensor, chosen: Tensor, grid: TokenGrid, stride: int, merged: int) -> TokenMap:
    """Average the ``merged`` sources that match best into their destinations.

    Args:
        x: tokens [B, N, C].
        chosen: destination of each cell, as in :func:`split_cells`.
        merged: how many sources of each sample.
    """
    if not merged:
        return TokenMap.identity(x)
    destinations, sources = split_cells(chosen, grid, stride)
    best, match = nearest_destination(unit(x), sources, destinations)
    picked = best.topk(merged, dim=1, sorted=False).indices
    leaders = torch.arange(grid.tokens, device=x.device).repeat(len(x), 1)
    leaders.scatter_(1, sources.gather(1, picked), match.gather(1, picked))
    return TokenMap.from_leaders(leaders, grid.tokens - merged)
