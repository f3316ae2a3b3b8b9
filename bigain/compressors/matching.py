"""Cells of the grid and bipartite matching (ToMe for SD, Bolya and Hoffman 2023, arXiv 2303.17604).

One token of each stride x stride cell is a destination, and all others are sources. Rows and
columns that do not fill a whole cell hold only sources.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from math import gcd

import torch
from torch import Tensor
from torch.compiler import is_compiling

from bigain.compressors import kernels
from bigain.compressors.constant import constant, positions
from bigain.compressors.tokens import TokenGrid, TokenMap, precise, take

# similarities computed at a time: few enough for a CPU's cache, and for the memory of others
BLOCK, LARGE_BLOCK = 2**22, 2**26
PIECE = 64  # similarities; half as many still pay off, and so do rows of at least eight pieces


@constant
def cell_tokens(grid: TokenGrid, stride: int, device: torch.device) -> Tensor:
    """The token indices of every whole cell, int64 [cells, stride**2], both in row-major order."""
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


@constant
def loose_tokens(grid: TokenGrid, stride: int, device: torch.device) -> Tensor:
    """The indices of tokens that lie in no whole cell, int64 [loose]."""
    index = torch.arange(grid.tokens, device=device).view(grid.height, grid.width)
    rows, columns = (grid.height // stride) * stride, (grid.width // stride) * stride
    return torch.cat([index[:rows, columns:].flatten(), index[rows:].flatten()])


def split_cells(chosen: Tensor, grid: TokenGrid, stride: int) -> tuple[Tensor, Tensor]:
    """Destinations and sources, without sorting.

    Args:
        chosen: which token of each cell is its destination, int64 [B, cells] in [0, stride**2).

    Returns:
        Token indices of the destinations [B, cells] and of the sources [B, N - cells].
    """
    cells = cell_tokens(grid, stride, chosen.device).expand(len(chosen), -1, -1)
    chosen = chosen.unsqueeze(-1)
    others = positions(stride**2 - 1, chosen.device)
    others = others + (others >= chosen)  # 0..s^2-1 except the chosen one
    loose = loose_tokens(grid, stride, chosen.device).expand(len(chosen), -1)
    sources = cells.gather(2, others).flatten(1)
    if loose.shape[1]:
        sources = torch.cat([sources, loose], 1)
    return cells.gather(2, chosen).squeeze(-1), sources


def lengths(x: Tensor) -> Tensor:
    """The Euclidean length of each token, never zero: [B, N, C] to [B, N], at least float32."""
    kind = torch.promote_types(x.dtype, torch.float32)
    return torch.linalg.vector_norm(x, dim=-1, dtype=kind).clamp(min=1e-12)


_lock = threading.Lock()
_inside: list[str] = []  # the setting that each thread inside `_bfloat16_products` found


@contextmanager
def _bfloat16_products(x: Tensor) -> Iterator[None]:
    """Let a CPU multiply bfloat16 values directly, which is exact because sums stay in float32.

    The setting belongs to the process: the last thread to leave restores what the first one found.
    """
    settings = getattr(torch.backends.mkldnn, "matmul", None)  # torch 2.9 or newer
    if x.dtype != torch.bfloat16 or not x.is_cpu or settings is None or is_compiling():
        yield
        return
    with _lock:
        _inside.append(settings.fp32_precision)
        settings.fp32_precision = "bf16"
    try:
        yield
    finally:
        with _lock:
            found = _inside.pop()
            if not _inside:
                settings.fp32_precision = found


def nearest_destination(
    x: Tensor, sources: Tensor, destinations: Tensor, barred: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The destination most similar to each source, by cosine similarity.

    The similarity matrix is computed and searched block by block.

    Args:
        x: tokens [B, N, C].
        sources, destinations: token indices, int64 [B, S] and [B, D].
        barred: tokens that take no part, bool [B, N]; as a source, one has a similarity of minus
            infinity.

    Returns:
        The similarity, at least float32 [B, S], and the destination's token index [B, S].
    """
    if barred is None and kernels.usable(x):
        return kernels.nearest(x, sources, destinations)
    (batch, many), few = sources.shape, destinations.shape[1]
    block = BLOCK if x.is_cpu else LARGE_BLOCK
    samples, rows = max(1, block // (many * few)), max(1, block // few)
    closed = None if barred is None else barred.gather(1, destinations).unsqueeze(1)
    found = []
    with _bfloat16_products(x):
        for i in range(0, batch, samples):
            here = slice(i, i + samples)
            out = None if closed is None else closed[here]
            found.append(_nearest(x[here], sources[here], destinations[here], out, rows))
    best, match = _joined(found, 0)
    if barred is not None:
        best.masked_fill_(barred.gather(1, sources), -torch.inf)
    return best, destinations.gather(1, match)


def _nearest(
    x: Tensor, sources: Tensor, destinations: Tensor, closed: Tensor | None, rows: int
) -> tuple[Tensor, Tensor]:
    """Similarity and place among the destinations, both [B, S], of ``rows`` sources at a time.

    Args:
        closed: the destinations that take no part, bool [B, 1, D].
    """
    a, b = take(x, sources), take(x, destinations)
    length, scale = lengths(a), lengths(b).reciprocal().unsqueeze(1)
    # products of half-precision tokens are exact unless scaling rounds the tokens first
    exact = x.dtype != length.dtype
    b = precise(b) if exact else b * scale.mT
    found = []
    for part in a.split(rows, 1):
        similarity = precise(part) @ b.mT
        if exact:
            similarity *= scale
        if closed is not None:
            similarity.masked_fill_(closed, -torch.inf)
        found.append(largest(similarity))
    best, place = _joined(found, 1)
    return best / length, place


def _joined(parts: list[tuple[Tensor, Tensor]], dim: int) -> tuple[Tensor, Tensor]:
    if len(parts) == 1:
        return parts[0]
    best, place = (torch.cat(part, dim) for part in zip(*parts, strict=True))
    return best, place


def largest(values: Tensor) -> tuple[Tensor, Tensor]:
    """``values.max(-1)`` of [B, R, K]: each row's maximum and its first position, both [B, R].

    On a CPU, finding the maximum takes a fraction of the time of finding its position. A long row
    is therefore cut into pieces, and only the piece that holds the maximum is searched.
    """
    width = gcd(values.shape[-1], PIECE)
    if not values.is_cpu or width < PIECE // 2 or values.shape[-1] < 8 * PIECE:
        best, place = values.max(-1)
        return best, place
    pieces = values.unflatten(-1, (-1, width))
    best, piece = pieces.amax(-1).max(-1)
    held = take(pieces.flatten(0, -3), piece.flatten().unsqueeze(1))
    return best, piece * width + held.argmax(-1).view_as(piece)


def merge_into(
    x: Tensor,
    parted: tuple[Tensor, Tensor],
    grid: TokenGrid,
    stride: int,
    merged: int,
    *,
    merge: str = "mean",
    proportional: bool = False,
    windows: int = 1,
    barred: Tensor | None = None,
) -> TokenMap:
    """Merge the ``merged`` best-matching sources of each sample into their destinations.

    Args:
        x: tokens [B, N, C].
        parted: destinations and sources, as :func:`split_cells` returns them.
        merged: number of sources to merge per sample.
        merge: one of `bigain.compressors.tokens.MERGES`.
        proportional: as `TokenMap.proportional`.
        windows: as for `in_windows`; a source is matched only within its own.
        barred: tokens that do not merge, bool [B, N]; at least ``merged`` sources must be left.

    Raises:
        ValueError: if the grid cannot be cut into so many windows.
    """
    if not merged:
        return TokenMap.identity(x)
    candidates, sources = parted
    if windows == 1:
        best, match = nearest_destination(x, sources, candidates, barred)
    else:
        order = in_windows(grid, stride, windows, x.device)
        candidates, sources = candidates[:, order], sources.unflatten(1, (len(order), -1))
        parts = candidates.chunk(windows**2, 1)
        sources = sources[:, order].flatten(1)
        pairs = zip(sources.chunk(windows**2, 1), parts, strict=True)
        found = [nearest_destination(x, *pair, barred) for pair in pairs]
        best, match = _joined(found, 1)
    picked = best.topk(merged, dim=1, sorted=False).indices
    if kernels.usable(x):
        made = kernels.assign(picked, sources, match, grid.tokens)
        return TokenMap.assigned(made, merge, proportional)
    destinations = positions(grid.tokens, x.device).repeat(len(x), 1)
    destinations.scatter_(1, sources.gather(1, picked), match.gather(1, picked))
    return TokenMap.from_destinations(destinations, grid.tokens - merged, merge, proportional)


@constant
def in_windows(grid: TokenGrid, stride: int, windows: int, device: torch.device) -> Tensor:
    """The cells in the order of the windows that they lie in, int64 [cells].

    Args:
        windows: along each side of the grid; all have the same number of cells.

    Raises:
        ValueError: if the grid cannot be cut into so many.
    """
    if grid.height % (stride * windows) or grid.width % (stride * windows):
        raise ValueError(
            f"windows={windows} needs sides divisible by {windows} cells of {stride} tokens, got "
            f"{grid.height}x{grid.width}; lower windows, or set it to 1"
        )
    rows, columns = grid.height // stride, grid.width // stride
    order = torch.arange(rows * columns, device=device).view(rows, columns)
    order = order.unflatten(1, (windows, -1)).unflatten(0, (windows, -1)).transpose(1, 2)
    return order.flatten()
