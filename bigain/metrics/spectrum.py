"""How much of each spatial frequency of tokens on a grid is left after something is done to them.

Frequencies are of the orthonormal two-dimensional DFT over the grid, in cycles a token. Band 0 is
the mean (zero frequency). The next ``bands`` split radii up to 1/2 evenly, their upper edges
included; the last holds the corners beyond, up to sqrt(1/2).
"""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from bigain.compressors.tokens import TokenGrid

_ROUNDING = 1e-12  # share of the power that a filter in float32 may leave by rounding


def centres(bands: int) -> NDArray[np.float64]:
    """The middle radius of each band, in cycles a token, [bands + 2]."""
    inner = (np.arange(bands) + 0.5) / (2 * bands)
    return np.concatenate([[0.0], inner, [(0.5 + 0.5**0.5) / 2]])


def band_of(grid: TokenGrid, bands: int, device: torch.device | str = "cpu") -> Tensor:
    """The band of each frequency in the order of `torch.fft.fft2`, int64 [height, width]."""
    rows, columns = (
        # int64 keeps a radius that lies on an edge on its side of it
        torch.minimum(torch.arange(side, device=device), side - torch.arange(side, device=device))
        for side in (grid.height, grid.width)
    )
    # (2 * bands * radius)**2 in units of 1/(height*width)**2
    squared = (
        4 * bands**2 * ((rows * grid.width).square().unsqueeze(1) + (columns * grid.height) ** 2)
    )
    unit = grid.tokens**2
    edges = unit * torch.arange(bands + 1, device=device).square()
    return torch.bucketize(squared, edges)


def band_product(x: Tensor, y: Tensor, grid: TokenGrid, bands: int) -> Tensor:
    """The inner product of ``x`` and ``y`` in each band, summed over channels.

    The bands sum to the inner product of the tokens (Parseval); of ``x`` with itself it is power.

    Args:
        x, y: tokens [B, N, C].

    Returns:
        float64 [B, bands + 2]; 0 where no frequency of the grid lies in a band.

    Raises:
        ValueError: if the tokens do not lie on ``grid``.
    """
    grid.check(x)
    grid.check(y)
    band = band_of(grid, bands, x.device).flatten()
    total = torch.zeros(len(x), bands + 2, dtype=torch.float64, device=x.device)
    for i in range(len(x)):  # a batch's spectra in float64 would take gigabytes
        first = _spectrum(x[i], grid)
        second = first if y is x else _spectrum(y[i], grid)
        # frequencies f and -f share a band, and their imaginary parts cancel
        each = (first.real * second.real + first.imag * second.imag).sum(-1)
        total[i].index_add_(0, band, each.flatten())
    return total


def _spectrum(x: Tensor, grid: TokenGrid) -> Tensor:
    """[N, C] to complex128 [height, width, C]."""
    z = x.double().unflatten(0, (grid.height, grid.width))
    return torch.fft.fft2(z, dim=(0, 1), norm="ortho")


def retention(before: ArrayLike, after: ArrayLike) -> NDArray[np.float64]:
    """Power after over power before; NaN where there was none. More than 1 is gained."""
    return _ratio(after, before)


def coherence(before: ArrayLike, after: ArrayLike, product: ArrayLike) -> NDArray[np.float64]:
    """Share of the power after that is linear in what was before: <x,y>^2 / (|x|^2 |y|^2).

    In [0, 1], whatever the scale; noise or aliases of other frequencies, which restore power,
    lower it. 0 where nothing is left but rounding, NaN where nothing was.

    Args:
        before, after, product: |x|^2, |y|^2 and <x,y> of `band_product`, of one shape.
    """
    x, y, xy = (np.asarray(v, dtype=np.float64) for v in (before, after, product))
    left = np.divide(xy**2, y, out=np.zeros_like(xy), where=y > _ROUNDING * x)
    return _ratio(left, x)


def residual(before: ArrayLike, after: ArrayLike, product: ArrayLike) -> NDArray[np.float64]:
    """Power of the difference y - x, from the same three."""
    x, y, xy = (np.asarray(v, dtype=np.float64) for v in (before, after, product))
    return np.maximum(x + y - 2 * xy, 0)


def _ratio(top: ArrayLike, bottom: ArrayLike) -> NDArray[np.float64]:
    top, bottom = np.asarray(top, dtype=np.float64), np.asarray(bottom, dtype=np.float64)
    return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)
