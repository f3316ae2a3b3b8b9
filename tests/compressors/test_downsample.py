"""ToDo and IE-KVD, key/value downsampling."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from bigain.compressors import IEKVD, LGTM, Cached, Compose, LinearAlpha, ToDo, TokenGrid, ToMe

grids = pytest.mark.parametrize(
    "grid",
    [TokenGrid(16, 16), TokenGrid(24, 16), TokenGrid(7, 5), TokenGrid(64, 64)],
    ids=lambda g: f"{g.height}x{g.width}",
)
factors = pytest.mark.parametrize("factor", [1, 2, 3, 4, 5])


def tokens(grid: TokenGrid, batch: int = 3) -> Tensor:
    return torch.randn(batch, grid.tokens, 6, generator=torch.Generator().manual_seed(0))


def image(x: Tensor, grid: TokenGrid) -> Tensor:
    return x.mT.unflatten(2, (grid.height, grid.width))


def coarse(compressor: ToDo | IEKVD, x: Tensor, grid: TokenGrid, t: Tensor | None = None) -> Tensor:
    made = compressor.plan(x, grid, t).keys_values
    assert made is not None
    return made(x)


@grids
@factors
def test_nearest_is_torchs_nearest_exact(grid, factor):
    x = tokens(grid)
    size = (grid.height // factor, grid.width // factor)
    want = F.interpolate(image(x, grid), size=size, mode="nearest-exact")
    assert torch.equal(coarse(ToDo(factor), x, grid), want.flatten(2).mT)


@grids
@factors
def test_mean_is_of_whole_cells(grid, factor):
    x = tokens(grid)
    z = image(x, grid)
    rows, columns = (range(side // factor) for side in (grid.height, grid.width))
    cells = [
        z[..., r * factor : (r + 1) * factor, c * factor : (c + 1) * factor].mean((-2, -1))
        for r in rows
        for c in columns
    ]
    want = torch.stack(cells, 1)
    assert_close(coarse(ToDo(factor, "mean"), x, grid), want, rtol=0, atol=1e-6)


def test_nearest_takes_the_bottom_right_of_2x2():
    x = torch.arange(16.0).view(1, 16, 1)
    assert coarse(ToDo(2), x, TokenGrid(4, 4)).flatten().tolist() == [5, 7, 13, 15]


@grids
@factors
def test_alpha_1_is_nearest_and_0_is_mean(grid, factor):
    x = tokens(grid)
    assert torch.equal(coarse(IEKVD(factor, 1), x, grid), coarse(ToDo(factor), x, grid))
    assert torch.equal(coarse(IEKVD(factor, 0), x, grid), coarse(ToDo(factor, "mean"), x, grid))


@grids
@pytest.mark.parametrize("alpha", [0.5, 0.9, 1.2, 2.0, -0.5])
def test_extrapolation(grid, alpha):
    x = tokens(grid)
    nearest, mean = coarse(ToDo(2), x, grid), coarse(ToDo(2, "mean"), x, grid)
    want = alpha * nearest + (1 - alpha) * mean
    assert_close(coarse(IEKVD(2, alpha), x, grid), want, rtol=0, atol=1e-5)


def test_default_is_the_papers_classification_alpha():
    grid = TokenGrid(8, 8)
    x = tokens(grid)
    assert torch.equal(coarse(IEKVD(2), x, grid), coarse(IEKVD(2, 0.9), x, grid))


def test_linear_alpha():
    alpha = LinearAlpha()(torch.tensor([1000, 0, 500, 250]))
    assert_close(alpha, torch.tensor([0.8, 1.2, 1.0, 1.1]))
    assert_close(LinearAlpha(0.5, 0.7, 10)(torch.tensor([5])), torch.tensor([0.6]))


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.float64])
def test_schedule_reads_each_samples_own_timestep(dtype):
    grid = TokenGrid(8, 8)
    x = tokens(grid)
    mixed = coarse(IEKVD(2, LinearAlpha()), x, grid, torch.tensor([1000, 500, 0], dtype=dtype))
    for i, alpha in enumerate([0.8, 1.0, 1.2]):
        want = coarse(IEKVD(2, alpha), x[i : i + 1], grid)
        assert_close(mixed[i : i + 1], want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("length", [40, 1000, 4000])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda made: made,
        lambda made: Compose(ToMe(0.5), made),
        lambda made: Compose(Cached(LGTM(0.5)), made),
    ],
)
def test_schedule_of_a_model_with_its_own_number_of_timesteps(length, wrap):
    made = wrap(IEKVD(2, LinearAlpha(0.7, 1.1))).scheduled(length)
    alpha = getattr(made, "parts", [made])[-1].alpha
    assert_close(alpha(torch.tensor([length, 0, length / 2])), torch.tensor([0.7, 1.1, 0.9]))
    assert IEKVD(2, 0.9).scheduled(length) == IEKVD(2, 0.9)


def test_schedule_from_a_mapping():
    assert IEKVD(2, {"noise": 0.7, "clean": 1.1}) == IEKVD(2, LinearAlpha(0.7, 1.1))
    with pytest.raises(TypeError, match="dirty"):
        IEKVD(2, {"dirty": 0.7})


def test_schedule_without_timesteps_is_refused():
    grid = TokenGrid(8, 8)
    with pytest.raises(ValueError, match="IEKVD: an alpha schedule needs each sample's timestep"):
        IEKVD(2, LinearAlpha()).plan(tokens(grid), grid)


@pytest.mark.parametrize("kind", [ToDo, IEKVD])
@pytest.mark.parametrize("grid", [TokenGrid(7, 5), TokenGrid(5, 7)])
def test_factor_larger_than_the_grid_is_refused(kind, grid):
    assert coarse(kind(5), tokens(grid), grid).shape[1] == 1
    sides = f"{grid.height}x{grid.width}"
    with pytest.raises(ValueError, match=f"factor 6 leaves nothing of a {sides} .* at most 5 fits"):
        kind(6).plan(tokens(grid), grid)


@pytest.mark.parametrize("factor", [1, 2, 4])
@pytest.mark.parametrize("pool", ["nearest", "mean"])
def test_coarse_queries_are_the_downsampled_grid(factor, pool):
    """Attention then sees what keys and values alone see otherwise, and its output is copied."""
    grid = TokenGrid(8, 12)
    x = tokens(grid)
    plan = ToDo(factor, pool, queries="coarse").plan(x, grid)
    assert plan.keys_values is None and plan.queries is not None
    short = plan.queries.apply(x)
    assert_close(short, coarse(ToDo(factor, pool), x, grid), rtol=0, atol=1e-6)
    size = (grid.height // factor, grid.width // factor)
    upsampled = F.interpolate(image(short, TokenGrid(*size)), scale_factor=factor, mode="nearest")
    assert torch.equal(plan.queries.undo(short), upsampled.flatten(2).mT)


@pytest.mark.parametrize("kind", [ToDo, IEKVD])
def test_a_factor_for_each_height(kind):
    made = kind({8: 4, 4: 2})
    assert hash(made) == hash(kind({4: 2, 8: 4})) and made == dataclasses.replace(made)
    for height, factor in ((8, 4), (4, 2)):
        x, grid = tokens(TokenGrid(height, 8)), TokenGrid(height, 8)
        assert torch.equal(coarse(made, x, grid), coarse(kind(factor), x, grid))
    with pytest.raises(ValueError, match="names grids of height 4, 8, and this block's is 16x8"):
        made.plan(tokens(TokenGrid(16, 8)), TokenGrid(16, 8))


@pytest.mark.parametrize(
    ("factor", "words"),
    [({}, "factor is empty"), ({8: 0}, "factor of grids of height 8"), ({"a": 2}, "the height")],
)
def test_factors_that_are_none(factor, words):
    with pytest.raises(ValueError, match=words):
        ToDo(factor)


def test_coarse_queries_need_whole_cells():
    with pytest.raises(ValueError, match="not made of whole 2x2 cells"):
        ToDo(2, queries="coarse").plan(tokens(TokenGrid(7, 5)), TokenGrid(7, 5))
