"""Keys and values with only low or only high frequencies, for analysis; not in the paper."""

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bigain.compressors import downsample
from bigain.compressors.base import Compressor, Plan, plain_numbers
from bigain.compressors.constant import positions
from bigain.compressors.tokens import TokenGrid, precise
from bigain.utils.randomness import KeyedStream
from bigain.utils.setting_types import check_choice, check_whole


@dataclass(frozen=True)
class FrequencyFilter(Compressor):
    """Keep either the low or the high frequencies of keys and values, and leave queries alone.

    This is a probe, not a way to save computation: in the "spectrum" domain the number of keys and
    values, and so the FLOPs, do not change. The filter acts on the input of attention, before the
    projections, so it does not remove their biases.

    Args:
        keep: "low" or "high". The two results sum to the unfiltered input.
        factor: low frequencies are those that a grid coarser by this factor can represent: below
            1/(2*factor) cycles per token along both axes, including the mean. All others are high.
        domain: "spectrum", or "cells", which splits the grid downsampled by ``factor`` as IE-KVD
            does: low is the mean of each cell, and high is its nearest token minus that mean. The
            paper does not say how it filters.

    Example:
        >>> import bigain
        >>> with bigain.compress(pipe, bigain.FrequencyFilter("low")):
        ...     image = pipe("a photo of a cat").images[0]
    """

    keep: str
    factor: int = 2
    domain: str = "spectrum"

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_choice("FrequencyFilter", "keep", self.keep, ("low", "high"))
        check_choice("FrequencyFilter", "domain", self.domain, ("spectrum", "cells"))
        check_whole("FrequencyFilter", "factor", self.factor, 2)

    @property
    def shortens(self) -> frozenset[str]:
        return frozenset({"keys_values"})

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
        downsample.check_fits("FrequencyFilter", self.factor, grid)
        if self.domain == "spectrum":
            split, tokens = _spectrum, positions(grid.tokens, x.device)
        else:
            split, tokens = _cells, downsample.centres(grid, self.factor, x.device)
        return Plan(
            keys_values=partial(split, grid=grid, factor=self.factor, low=self.keep == "low"),
            key_tokens=tokens,
        )


def _spectrum(y: Tensor, grid: TokenGrid, factor: int, low: bool) -> Tensor:
    """One band of each channel over the grid, [B, N, C] to [B, N, C]."""
    z = precise(y).unflatten(1, (grid.height, grid.width))
    frequencies = torch.fft.rfft2(z, dim=(1, 2), norm="ortho")
    # as whole numbers of cycles over a side, so that the cutoff does not depend on rounding
    rows = torch.arange(grid.height, device=y.device)
    rows = torch.minimum(rows, grid.height - rows)
    columns = torch.arange(grid.width // 2 + 1, device=y.device)
    is_low = (2 * factor * rows < grid.height).unsqueeze(1) & (2 * factor * columns < grid.width)
    kept = (is_low if low else ~is_low).unsqueeze(-1)
    sides = (grid.height, grid.width)
    z = torch.fft.irfft2(frequencies * kept, s=sides, dim=(1, 2), norm="ortho")
    return z.flatten(1, 2).to(y.dtype)


def _cells(y: Tensor, grid: TokenGrid, factor: int, low: bool) -> Tensor:
    """Each cell's mean, or its nearest token minus that mean.

    [B, N, C] to [B, (h//s)*(w//s), C].
    """
    mean = downsample.mean(y, grid, factor)
    return mean if low else downsample.nearest(y, grid, factor) - mean
