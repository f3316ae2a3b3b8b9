"""Filters of keys and values by frequency."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from bigain.compressors import IEKVD, LGTM, Compose, Compressor, FrequencyFilter, ToDo, TokenGrid

grids = pytest.mark.parametrize(
    "grid",
    [TokenGrid(16, 16), TokenGrid(24, 16), TokenGrid(7, 5), TokenGrid(9, 12), TokenGrid(4, 4)],
    ids=lambda g: f"{g.height}x{g.width}",
)
factors = pytest.mark.parametrize("factor", [2, 3, 4])
domains = pytest.mark.parametrize("domain", ["spectrum", "cells"])


def tokens(grid: TokenGrid, batch: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, grid.tokens, 6, generator=generator, dtype=torch.float64)


def keep(which: str, x: Tensor, grid: TokenGrid, factor: int = 2, **more: str) -> Tensor:
    return filtered(FrequencyFilter(which, factor, **more), x, grid)


def filtered(compressor: Compressor, x: Tensor, grid: TokenGrid) -> Tensor:
    plan = compressor.plan(x, grid)
    assert plan.queries is None and plan.keys_values is not None
    return plan.keys_values(x)


def wave(grid: TokenGrid, down: float, across: float, phase: float = 0.3) -> Tensor:
    """A plane wave of so many cycles over the height and over the width, [1, N, 1]."""
    rows = torch.arange(grid.height, dtype=torch.float64).unsqueeze(1) / grid.height
    columns = torch.arange(grid.width, dtype=torch.float64) / grid.width
    return (2 * math.pi * (down * rows + across * columns) + phase).cos().view(1, -1, 1)


@grids
@factors
def test_low_and_high_sum_to_all(grid, factor):
    x = tokens(grid)
    low, high = keep("low", x, grid, factor), keep("high", x, grid, factor)
    assert low.shape == high.shape == x.shape
    assert_close(low + high, x, rtol=0, atol=1e-12)
    # orthogonal in every channel, so they share its energy out
    assert_close((low * high).sum(1), torch.zeros(3, 6).double(), rtol=0, atol=1e-10)
    assert low.norm() > 0.1 and high.norm() > 0.1


@grids
@factors
@pytest.mark.parametrize("which", ["low", "high"])
def test_filtering_twice_changes_nothing_more(grid, factor, which):
    once = keep(which, tokens(grid), grid, factor)
    assert_close(keep(which, once, grid, factor), once, rtol=0, atol=1e-12)


@grids
@factors
def test_a_constant_image_is_all_low(grid, factor):
    x = torch.full((2, grid.tokens, 3), 1.7).double()
    assert_close(keep("low", x, grid, factor), x, rtol=0, atol=1e-12)
    assert_close(keep("high", x, grid, factor), torch.zeros_like(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("grid", [TokenGrid(16, 16), TokenGrid(6, 10)])
@factors
def test_a_checkerboard_is_all_high(grid, factor):
    x = wave(grid, grid.height / 2, grid.width / 2, phase=0)
    assert set(x.round(decimals=9).flatten().tolist()) == {-1.0, 1.0}
    assert_close(keep("high", x, grid, factor), x, rtol=0, atol=1e-12)
    assert_close(keep("low", x, grid, factor), torch.zeros_like(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("sides", "factor", "cycles", "low"),
    [
        ((16, 16), 2, (3, 3), True),
        ((16, 16), 2, (4, 0), False),  # the cutoff itself, 4/16 = 1/(2*2)
        ((16, 16), 2, (0, 4), False),
        ((16, 16), 2, (-3, 3), True),
        ((12, 12), 3, (1, 1), True),
        ((12, 12), 3, (2, 0), False),  # 2/12 = 1/(2*3)
        ((9, 24), 2, (2, 5), True),  # 2/9 and 5/24 lie below 1/4
        ((9, 24), 2, (3, 0), False),
        ((9, 24), 2, (0, 6), False),
        ((16, 16), 4, (1, 1), True),
        ((16, 16), 4, (1, 2), False),
    ],
)
def test_the_cutoff_in_cycles_a_token(sides, factor, cycles, low):
    grid = TokenGrid(*sides)
    x = wave(grid, *cycles)
    zero = torch.zeros_like(x)
    assert_close(keep("low", x, grid, factor), x if low else zero, rtol=0, atol=1e-12)
    assert_close(keep("high", x, grid, factor), zero if low else x, rtol=0, atol=1e-12)


def test_low_survives_the_coarser_grid():
    """Every second token tells all of a low-pass signal (the sampling theorem)."""
    grid = TokenGrid(16, 12)
    low = keep("low", tokens(grid), grid)
    coarse = low.unflatten(1, (16, 12))[:, ::2, ::2]
    spectrum = torch.fft.fftshift(torch.fft.fft2(coarse, dim=(1, 2)), dim=(1, 2))
    padded = torch.nn.functional.pad(spectrum, (0, 0, 3, 3, 4, 4))
    back = torch.fft.ifft2(torch.fft.ifftshift(padded, dim=(1, 2)), dim=(1, 2)).real * 4
    assert_close(back.flatten(1, 2), low, rtol=0, atol=1e-10)


@grids
def test_cells_are_those_of_iekvd(grid):
    """D = low + alpha * high."""
    x = tokens(grid)
    low, high = (keep(which, x, grid, domain="cells") for which in ("low", "high"))
    assert torch.equal(low, filtered(ToDo(2, "mean"), x, grid))
    assert_close(low + high, filtered(ToDo(2), x, grid), rtol=0, atol=1e-12)
    between = filtered(IEKVD(2, 0.9), x, grid)
    assert_close(low + 0.9 * high, between, rtol=0, atol=1e-12)


@pytest.mark.parametrize("which", ["low", "high"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_filters_in_float32(which, dtype):
    grid = TokenGrid(12, 10)
    x = tokens(grid).to(dtype)
    found = keep(which, x, grid)
    assert found.dtype == dtype
    assert torch.equal(found, keep(which, x.float(), grid).to(dtype))
    assert_close(
        keep(which, x.float(), grid).double(), keep(which, x.double(), grid), rtol=0, atol=2e-6
    )
    cells, want = (keep(which, z, grid, domain="cells") for z in (x, x.double()))
    assert cells.dtype == dtype
    assert_close(cells.double(), want, rtol=0, atol=16 * torch.finfo(dtype).eps)


@domains
@grids
def test_a_batch_is_its_samples(domain, grid):
    x = tokens(grid)
    whole = keep("high", x, grid, domain=domain)
    alone = torch.cat([keep("high", x[i : i + 1], grid, domain=domain) for i in range(3)])
    assert_close(whole, alone, rtol=0, atol=1e-13)


def test_it_combines_with_merging():
    grid = TokenGrid(8, 8)
    x = tokens(grid)
    plan = Compose(LGTM(0.5), FrequencyFilter("low")).plan(x, grid)
    assert plan.queries.size == 32 and plan.keys_values is not None
    assert torch.equal(plan.keys_values(x), keep("low", x, grid))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"keep": "middle"}, "keep must be one of low, high; got 'middle'"),
        ({"keep": "low", "factor": 1}, "factor must be a whole number of at least 2, got 1"),
        ({"keep": "low", "domain": "time"}, "domain must be one of spectrum, cells; got 'time'"),
    ],
)
def test_what_it_refuses(arguments, message):
    with pytest.raises(ValueError, match=f"FrequencyFilter: {message}"):
        FrequencyFilter(**arguments)


def test_a_grid_smaller_than_the_factor_is_refused():
    with pytest.raises(ValueError, match="factor 6 leaves nothing of a 7x5 token grid"):
        FrequencyFilter("low", 6).plan(tokens(TokenGrid(7, 5)), TokenGrid(7, 5))


def test_tokens_off_the_grid_are_refused():
    with pytest.raises(ValueError, match=r"expected \[batch, 64, channels\]"):
        FrequencyFilter("low").plan(torch.randn(2, 63, 4), TokenGrid(8, 8))
