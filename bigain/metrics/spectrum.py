"""How much of each spatial frequency of tokens on a grid is left after an operation on them.

Frequencies are those of the orthonormal two-dimensional DFT over the grid, in cycles per token.
Band 0 is the mean (zero frequency). The next ``bands`` bands split the radii up to 1/2 evenly, and
each includes its upper edge. The last band holds the corners, with radii up to sqrt(1/2).
"""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from bigain.compressors.tokens import TokenGrid

_ROUNDING = 1e-12  # share of power that rounding may leave behind after a float32 filter


def band_of(grid: TokenGrid, bands: int, device: torch.device | str = "cpu") -> Tensor:
    """The band of each frequency in the order of `torch.fft.fft2`, int64 [height, width]."""
    rows, columns = (
        # in int64, a radius that lies on an edge is never rounded across it
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

    The sum over bands is the inner product of the tokens (Parseval). For ``y`` = ``x`` it is the
    power.

    Args:
        x, y: tokens [B, N, C].

    Returns:
        float64 [B, bands + 2]; 0 for bands that contain no frequency of the grid.

    Raises:
        ValueError: if the tokens do not fit ``grid``.
    """
    grid.check(x)
    grid.check(y)
    band = band_of(grid, bands, x.device).flatten()
    total = torch.zeros(len(x), bands + 2, dtype=torch.float64, device=x.device)
    for i in range(len(x)):  # the float64 spectra of a whole batch would take gigabytes
        first = _spectrum(x[i], grid)
        second = first if y is x else _spectrum(y[i], grid)
        # frequencies f and -f share a band, and their imaginary parts cancel
        each = (first.real * second.real + first.imag * second.imag).sum(-1)
        total[i].index_add_(0, band, each.flatten())
    return total


def _spectrum(x: Tensor, grid: TokenGrid) -> Tensor:
    """The spectrum of tokens [N, C], complex128 [height, width, C]."""
    z = x.double().unflatten(0, (grid.height, grid.width))
    return torch.fft.fft2(z, dim=(0, 1), norm="ortho")


def retention(before: ArrayLike, after: ArrayLike) -> NDArray[np.float64]:
    """Power after over power before; above 1 if power is gained, NaN if there was none."""
    return _ratio(after, before)


def coherence(before: ArrayLike, after: ArrayLike, product: ArrayLike) -> NDArray[np.float64]:
    """The share of the power after that is linear in the signal before: <x,y>^2 / (|x|^2 |y|^2).

    It lies in [0, 1] and does not depend on scale. Noise and aliases of other frequencies restore
    power but lower the coherence. It is 0 where only rounding is left, and NaN where there was no
    power before.

    Args:
        before, after, product: |x|^2, |y|^2 and <x,y> from `band_product`, all of the same shape.
    """
    x, y, xy = (np.asarray(v, dtype=np.float64) for v in (before, after, product))
    left = np.divide(xy**2, y, out=np.zeros_like(xy), where=y > _ROUNDING * x)
    return _ratio(left, x)


def _ratio(top: ArrayLike, bottom: ArrayLike) -> NDArray[np.float64]:
    top, bottom = np.asarray(top, dtype=np.float64), np.asarray(bottom, dtype=np.float64)
    return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)
