"""How much high frequency a token carries: the scores of L-GTM and of the paper's Table 8.

Every score maps tokens [B, N, C] on a grid to [B, N]. Higher means rougher, so the token with the
lowest score in a cell is its smoothest. The cosine scores are therefore one minus the similarity.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bigain.compressors import kernels
from bigain.compressors.constant import constant
from bigain.compressors.tokens import TokenGrid, precise

# elements scored at a time: few enough for a CPU's cache, and for the memory of other devices
PART, LARGE_PART = 2**21, 2**26


def laplacian(x: Tensor, grid: TokenGrid) -> Tensor:
    """x convolved with [[0,1,0],[1,-4,1],[0,1,0]], zero-padded, [B, N, C] (paper, L-GTM)."""
    grid.check(x)
    z = x.unflatten(1, (grid.height, grid.width))
    if not x.is_cpu:
        return torch.add(neighbour_sum(z), z, alpha=-4).flatten(1, 2)
    # one pass over memory instead of six
    channels = x.shape[-1]
    kernel = _laplacian_kernel(x.dtype).expand(channels, 1, 3, 3)
    z = F.conv2d(z.permute(0, 3, 1, 2), kernel, padding=1, groups=channels)
    return z.permute(0, 2, 3, 1).flatten(1, 2)


@constant
def _laplacian_kernel(dtype: torch.dtype) -> Tensor:
    return torch.tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]], dtype=dtype)


def neighbour_sum(z: Tensor) -> Tensor:
    """The sum of each token's four neighbours on [B, h, w, C], with zeros outside the grid."""
    total = torch.zeros_like(z)
    # not by +=, which copies every sum onto itself
    total[:, 1:].add_(z[:, :-1])
    total[:, :-1].add_(z[:, 1:])
    total[:, :, 1:].add_(z[:, :, :-1])
    total[:, :, :-1].add_(z[:, :, 1:])
    return total


def laplacian_l1(x: Tensor, grid: TokenGrid) -> Tensor:
    """The magnitude of the Laplacian summed over channels, which is the paper's score."""
    return laplacian(x, grid).abs_().sum(-1)


def laplacian_l2(x: Tensor, grid: TokenGrid) -> Tensor:
    """The Euclidean norm of the Laplacian over channels."""
    return laplacian(x, grid).norm(dim=-1)


def channel_variance(x: Tensor, grid: TokenGrid) -> Tensor:
    """The variance over a token's channels, divided by C; the published code divides by C - 1."""
    return x.var(-1, correction=0)


def l1_norm(x: Tensor, grid: TokenGrid) -> Tensor:
    """The magnitudes of a token's channels, summed."""
    return x.abs().sum(-1)


def l2_norm(x: Tensor, grid: TokenGrid) -> Tensor:
    """The Euclidean norm of a token."""
    return x.norm(dim=-1)


def mean_deviation(x: Tensor, grid: TokenGrid) -> Tensor:
    """The Euclidean distance to the sample's mean token."""
    return (x - x.mean(1, keepdim=True)).norm(dim=-1)


def dft_amplitude(x: Tensor, grid: TokenGrid) -> Tensor:
    """The amplitudes of a token's 1-D Fourier transform over channels, summed, but for the mean."""
    return torch.fft.fft(x, dim=-1)[..., 1:].abs().sum(-1)


def spectral_centroid(x: Tensor, grid: TokenGrid) -> Tensor:
    """The amplitude-weighted mean index of the C bins of the same transform.

    As in the published code, the mean is bin 0, and the negative frequencies in the upper half of
    the bins count as the highest. Amplitudes are symmetric, so the score is low where the mean
    dominates, whatever the other frequencies are.
    """
    amplitude = torch.fft.fft(x, dim=-1).abs()
    index = torch.arange(x.shape[-1], device=x.device, dtype=amplitude.dtype)
    return (amplitude * index).sum(-1) / amplitude.sum(-1).clamp(min=1e-12)


def neighbour_cosine(x: Tensor, grid: TokenGrid) -> Tensor:
    """One minus the mean cosine similarity to a token's two to four neighbours."""
    z = F.normalize(x, dim=-1).unflatten(1, (grid.height, grid.width))
    neighbours = neighbour_sum(torch.ones_like(z[:1, ..., :1])).clamp(min=1)
    return 1 - ((z * neighbour_sum(z)).sum(-1) / neighbours[..., 0]).flatten(1)


def mean_cosine(x: Tensor, grid: TokenGrid) -> Tensor:
    """One minus the cosine similarity to the sample's mean token."""
    return 1 - F.cosine_similarity(x, x.mean(1, keepdim=True), dim=-1)


SCORES: dict[str, Callable[[Tensor, TokenGrid], Tensor]] = {
    score.__name__: score
    for score in (
        laplacian_l1,
        laplacian_l2,
        channel_variance,
        l1_norm,
        l2_norm,
        mean_deviation,
        dft_amplitude,
        spectral_centroid,
        neighbour_cosine,
        mean_cosine,
    )
}

# Scores that were once defined in another way: results of the first definition are others.
DEFINITIONS = {"dft_amplitude": 2, "spectral_centroid": 2}


def score_name() -> Any:
    """The field of a compressor that names one of `SCORES`; the paper's score unless given."""
    return dataclasses.field(default="laplacian_l1", metadata={"definitions": DEFINITIONS})


def score(name: str, x: Tensor, grid: TokenGrid) -> Tensor:
    """One of `SCORES`, at least float32 [B, N]; half precision is widened part by part."""
    if name == "laplacian_l1" and kernels.usable(x):
        grid.check(x)
        return kernels.laplacian_l1(x, grid.height, grid.width)
    parts = x.split(max(1, (PART if x.is_cpu else LARGE_PART) // x[0].numel()))
    found = [SCORES[name](precise(part), grid) for part in parts]
    return found[0] if len(found) == 1 else torch.cat(found)
