"""Each score against a second implementation, with other operations."""

import cmath
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from torch.testing import assert_close

from bigain.compressors import TokenGrid
from bigain.compressors.spectrum import SCORES, laplacian, score

GRIDS = [TokenGrid(6, 6), TokenGrid(5, 3), TokenGrid(1, 4), TokenGrid(1, 1)]
CHANNELS = [8, 7]


def convolved(x: Tensor, grid: TokenGrid) -> Tensor:
    """The Laplacian as a grouped convolution."""
    channels = x.shape[-1]
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]], dtype=x.dtype)
    image = x.mT.unflatten(2, (grid.height, grid.width))
    kernel = kernel.expand(channels, 1, 3, 3)
    return F.conv2d(image, kernel, padding=1, groups=channels).flatten(2).mT


def by_token(score: Callable[[Tensor], float]) -> Callable[[Tensor, TokenGrid], Tensor]:
    """A score of one token alone."""
    return lambda x, grid: torch.tensor([[score(token) for token in sample] for sample in x])


def amplitudes(token: Tensor) -> list[float]:
    """Amplitudes of all C bins, by the definition of the transform."""
    n = len(token)
    return [
        abs(sum(float(v) * cmath.exp(-2j * math.pi * k * i / n) for i, v in enumerate(token)))
        for k in range(n)
    ]


def cosine(a: Tensor, b: Tensor) -> float:
    return float(a @ b / (a.norm() * b.norm()))


def neighbours(i: int, grid: TokenGrid) -> list[int]:
    row, column = divmod(i, grid.width)
    around = ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1))
    return [r * grid.width + c for r, c in around if 0 <= r < grid.height and 0 <= c < grid.width]


def neighbour_cosine(x: Tensor, grid: TokenGrid) -> Tensor:
    scores = []
    for sample in x:
        for i, token in enumerate(sample):
            near = [cosine(token, sample[j]) for j in neighbours(i, grid)]
            scores.append(1 - sum(near) / max(len(near), 1))
    return torch.tensor(scores).view(x.shape[:2])


REFERENCES = {
    "laplacian_l1": lambda x, grid: convolved(x, grid).abs().sum(-1),
    "laplacian_l2": lambda x, grid: convolved(x, grid).square().sum(-1).sqrt(),
    "channel_variance": by_token(
        lambda token: sum(float(v - token.mean()) ** 2 for v in token) / len(token)
    ),
    "l1_norm": by_token(lambda token: sum(abs(float(v)) for v in token)),
    "l2_norm": by_token(lambda token: math.sqrt(sum(float(v) ** 2 for v in token))),
    "mean_deviation": lambda x, grid: torch.stack(
        [torch.cdist(s, s.sum(0, keepdim=True) / len(s)).squeeze(1) for s in x]
    ),
    "dft_amplitude": by_token(lambda token: sum(amplitudes(token)[1:])),
    "spectral_centroid": by_token(
        lambda token: sum(k * a for k, a in enumerate(amplitudes(token))) / sum(amplitudes(token))
    ),
    "neighbour_cosine": neighbour_cosine,
    "mean_cosine": lambda x, grid: torch.tensor(
        [[1 - cosine(token, sample.mean(0)) for token in sample] for sample in x]
    ),
}


def test_every_score_has_a_reference():
    assert set(REFERENCES) == set(SCORES)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("grid", GRIDS, ids=lambda g: f"{g.height}x{g.width}")
@pytest.mark.parametrize("channels", CHANNELS)
def test_score(name, grid, channels):
    x = torch.randn(2, grid.tokens, channels, generator=torch.Generator().manual_seed(0)) + 0.3
    score = SCORES[name](x, grid)
    assert score.shape == (2, grid.tokens)
    assert_close(score, REFERENCES[name](x, grid).to(score), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SCORES)
def test_higher_means_rougher(name):
    """On tokens of one direction, one that stands out scores highest."""
    grid = TokenGrid(5, 5)
    x = torch.ones(1, 25, 8)
    x[0, 12] = 3 * torch.tensor([1.0, -1, 1, -1, 1, -1, 1, -1])
    assert SCORES[name](x, grid).argmax() == 12


# the published code's two similarities are higher for smoother tokens
GOLDEN = {name: (name, 1.0) for name in SCORES if not name.endswith("cosine")} | {
    "neighbour_cosine": ("neighbour_similarity", -1.0),
    "mean_cosine": ("mean_similarity", -1.0),
}


@pytest.mark.parametrize("case", ["16x16_r0.5", "24x16_r0.7", "32x32_r0.3"])
@pytest.mark.parametrize("name", SCORES)
def test_published_score(operators, golden_folder, case, name):
    x, grid = operators[f"{case}.x"], TokenGrid(*map(int, case.split("_")[0].split("x")))
    published, sign = GOLDEN[name]
    want = load_file(golden_folder / "scores.safetensors")[f"{case}.score.{published}"]
    found = score(name, x, grid)
    if sign < 0:
        found = 1 - found
    if name == "channel_variance":  # ours divides by C, which orders the tokens alike
        channels = x.shape[-1]
        found = found * channels / (channels - 1)
    assert_close(found, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SCORES)
def test_zero_tokens_score_finitely(name):
    assert SCORES[name](torch.zeros(1, 16, 8), TokenGrid(4, 4)).isfinite().all()


def test_laplacian_by_hand():
    x = torch.arange(6.0).view(1, 6, 1)  # 0 1 2 / 3 4 5
    want = torch.tensor([1.0 + 3, 0 + 2 + 4 - 4, 1 + 5 - 8, 0 + 4 - 12, 1 + 3 + 5 - 16, 2 + 4 - 20])
    assert torch.equal(laplacian(x, TokenGrid(2, 3)).flatten(), want)


def test_laplacian_refuses_tokens_off_the_grid():
    with pytest.raises(ValueError, match=r"expected \[batch, 4, channels\]"):
        laplacian(torch.zeros(1, 5, 1), TokenGrid(2, 2))
