"""Power of tokens by spatial frequency."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from bigain.compressors import LGTM, FrequencyFilter, TokenGrid, ToMe
from bigain.metrics.spectrum import band_of, band_product, coherence, retention

grids = pytest.mark.parametrize(
    "grid",
    [TokenGrid(16, 16), TokenGrid(24, 16), TokenGrid(7, 5), TokenGrid(9, 12), TokenGrid(1, 6)],
    ids=lambda g: f"{g.height}x{g.width}",
)


def tokens(grid, batch=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, grid.tokens, 5, generator=generator, dtype=torch.float64)


def measured(x, y, grid, bands=8):
    """before, after and product of all samples, as arrays."""
    return [band_product(a, b, grid, bands).numpy() for a, b in ((x, x), (y, y), (x, y))]


def filtered(keep, x, grid):
    plan = FrequencyFilter(keep).plan(x, grid)
    assert plan.keys_values is not None
    return plan.keys_values(x)


@grids
@pytest.mark.parametrize("bands", [1, 4, 8])
def test_the_bands_sum_to_the_tokens_product(grid, bands):
    x, y = tokens(grid), tokens(grid, seed=1)
    power = band_product(x, x, grid, bands)
    assert power.shape == (3, bands + 2) and power.dtype == torch.float64
    assert (power >= 0).all()
    assert_close(power.sum(1), x.square().sum((1, 2)))
    assert_close(band_product(x, y, grid, bands).sum(1), (x * y).sum((1, 2)))
    assert_close(power[:, 0], grid.tokens * x.mean(1).square().sum(1))


@grids
@pytest.mark.parametrize("bands", [1, 3, 8])
def test_bands_are_radii(grid, bands):
    rows = torch.fft.fftfreq(grid.height, dtype=torch.float64).unsqueeze(1)
    radius = (rows.square() + torch.fft.fftfreq(grid.width, dtype=torch.float64).square()).sqrt()
    # a hair below, since edges belong to the band they end
    want = torch.ceil(radius * 2 * bands - 1e-9).clamp(max=bands + 1).long()
    assert torch.equal(band_of(grid, bands), want)


@pytest.mark.parametrize("cycles", [(0, 0), (1, 0), (0, 1), (3, 4), (5, 0), (8, 0), (8, 8), (6, 6)])
def test_a_wave_lies_in_the_band_of_its_radius(cycles):
    grid = TokenGrid(16, 16)
    y, x = torch.arange(16.0).double().unsqueeze(1), torch.arange(16.0).double()
    wave = (2 * math.pi * (cycles[0] * y + cycles[1] * x) / 16 + 0.3).cos().view(1, -1, 1)
    power = band_product(wave, wave, grid, 8)
    radius = math.hypot(*cycles) / 16
    want = 9 if radius > 0.5 else math.ceil(radius * 16 - 1e-9)
    assert_close(power[0, want], wave.square().sum())
    assert power.sum() - power[0, want] < 1e-9


@grids
def test_what_is_left_alone_is_all_there(grid):
    x = tokens(grid)
    before, after, product = measured(x, x, grid)
    there = before > 0
    assert np.array_equal(np.isnan(retention(before, after)), ~there)
    for found in (retention(before, after), coherence(before, after, product)):
        assert found[there] == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("grid", [TokenGrid(16, 16), TokenGrid(24, 16)])
def test_a_low_pass_leaves_nothing_high(grid):
    x = tokens(grid)
    y = filtered("low", x, grid)
    before, after, product = measured(x, y, grid)
    kept, same = retention(before, after), coherence(before, after, product)
    assert kept[:, :4] == pytest.approx(1, abs=1e-9)  # radii below 1/4, less the edge itself
    assert kept[:, 7:] == pytest.approx(0, abs=1e-9)  # beyond the square's corner, sqrt(2)/4
    # a projection: what is coherent is what is kept
    assert same[:, :7] == pytest.approx(kept[:, :7], abs=1e-9)


@grids
def test_coherence_knows_no_scale_and_power_does(grid):
    x = tokens(grid)
    before, after, product = measured(x, -3 * x, grid)
    there = before > 0
    assert retention(before, after)[there] == pytest.approx(9)
    assert coherence(before, after, product)[there] == pytest.approx(1)


def test_noise_restores_power_and_not_coherence():
    grid = TokenGrid(32, 32)
    x = tokens(grid, batch=8)
    low = filtered("low", x, grid)
    noise = tokens(grid, batch=8, seed=1)
    faked = low + filtered("high", noise, grid)
    before, after, product = measured(x, faked, grid)
    assert retention(before, after)[:, 6:].mean() == pytest.approx(1, abs=0.1)
    assert coherence(before, after, product)[:, 7:].mean() < 0.01


@pytest.mark.parametrize("compressor", [LGTM(0.5), ToMe(0.75, destinations="first")], ids=repr)
def test_merging_is_a_projection(compressor):
    """Of all that is constant on its slots: after = product over all bands together."""
    grid = TokenGrid(12, 8)
    x = tokens(grid)
    queries = compressor.plan(x, grid).queries
    before, after, product = measured(x, queries.undo(queries.apply(x)), grid)
    assert after.sum(1) == pytest.approx(product.sum(1))
    assert (after.sum(1) < before.sum(1)).all()
    same = coherence(before, after, product)
    assert np.nanmin(same) >= 0 and np.nanmax(same) <= 1 + 1e-12


@grids
def test_the_product_makes_up_the_power_of_a_difference(grid):
    x, y = tokens(grid), tokens(grid, seed=1)
    before, after, product = measured(x, y, grid)
    want = band_product(x - y, x - y, grid, 8).numpy()
    assert before + after - 2 * product == pytest.approx(want)


def test_nothing_left_and_nothing_there():
    assert retention([2.0, 0.0], [0.0, 1.0]).tolist()[0] == 0
    assert np.isnan(retention([0.0], [1.0])[0])
    assert coherence([2.0], [0.0], [0.0]).tolist() == [0]
    assert np.isnan(coherence([0.0], [1.0], [0.0])[0])


def test_half_precision_is_measured_in_double():
    grid = TokenGrid(8, 8)
    x = tokens(grid).half() * 300  # whose squares float16 cannot hold
    assert_close(band_product(x, x, grid, 4).sum(1), x.double().square().sum((1, 2)))


def test_tokens_off_the_grid_are_refused():
    grid = TokenGrid(8, 8)
    with pytest.raises(ValueError, match=r"expected \[batch, 64, channels\]"):
        band_product(torch.randn(1, 64, 3), torch.randn(1, 63, 3), grid, 8)
