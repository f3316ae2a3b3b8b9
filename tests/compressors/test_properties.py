"""What holds for every compressor, grid, stride and batch."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from bigain.compressors import (
    ABM,
    IEKVD,
    LGTM,
    Compressor,
    LinearAlpha,
    SiTo,
    ToDo,
    TokenGrid,
    TokenMap,
    ToMe,
)
from bigain.utils.randomness import KeyedStream

GRIDS = [TokenGrid(16, 16), TokenGrid(7, 5), TokenGrid(24, 16), TokenGrid(9, 9)]
BATCHES = [1, 3]

QUERIES = {
    "tome_first": lambda ratio, stride: ToMe(ratio, stride, destinations="first"),
    "tome_random": lambda ratio, stride: ToMe(ratio, stride),
    "sito": lambda ratio, stride: SiTo(ratio, stride, noise_alpha=0),
    "sito_noise": lambda ratio, stride: SiTo(ratio, stride),
    "lgtm": lambda ratio, stride: LGTM(ratio, stride),
    "lgtm_highest": lambda ratio, stride: LGTM(ratio, stride, destinations="highest"),
    "lgtm_official": lambda ratio, stride: LGTM(ratio, stride, cells="official"),
    "abm": lambda ratio, stride: ABM(ratio, stride=stride),
}
KEYS_VALUES = {
    "todo_nearest": lambda factor: ToDo(factor),
    "todo_mean": lambda factor: ToDo(factor, "mean"),
    "iekvd_0.9": lambda factor: IEKVD(factor),
    "iekvd_1.2": lambda factor: IEKVD(factor, 1.2),
    "iekvd_schedule": lambda factor: IEKVD(factor, LinearAlpha()),
}
TIMESTEPS = torch.tensor([25, 500, 975])

# the official code's grouping needs whole cells: test_lgtm
fits = pytest.mark.parametrize(
    ("name", "grid", "stride"),
    [
        pytest.param(name, grid, stride, id=f"{name}-{grid.height}x{grid.width}-{stride}")
        for name in QUERIES
        for grid in GRIDS
        for stride in (2, 3)
        if name != "lgtm_official" or grid.height % stride == grid.width % stride == 0
    ],
)
queries = pytest.mark.parametrize("name", QUERIES)
keys_values = pytest.mark.parametrize("name", KEYS_VALUES)
grids = pytest.mark.parametrize("grid", GRIDS, ids=lambda g: f"{g.height}x{g.width}")
strides = pytest.mark.parametrize("stride", [2, 3])
batches = pytest.mark.parametrize("batch", BATCHES)


def tokens(batch: int, grid: TokenGrid, seed: int = 0) -> Tensor:
    return torch.randn(batch, grid.tokens, 12, generator=torch.Generator().manual_seed(seed))


def keys(batch: int) -> KeyedStream:
    return KeyedStream.of(0, "test", range(batch))


def plan(compressor: Compressor, x: Tensor, grid: TokenGrid, rng: KeyedStream) -> TokenMap:
    made = compressor.plan(x, grid, rng=rng)
    assert made.keys_values is None and made.queries is not None
    return made.queries


def downsample(compressor: Compressor, x: Tensor, grid: TokenGrid, t: Tensor) -> Tensor:
    made = compressor.plan(x, grid, t)
    assert made.queries is None and made.keys_values is not None
    return made.keys_values(x)


@fits
@batches
def test_map(name, grid, stride, batch):
    x, y = tokens(batch, grid), tokens(batch, grid, 1)
    made = plan(QUERIES[name](0.5, stride), x, grid, keys(batch))

    removed = int(0.5 * grid.tokens)
    if name == "abm":
        removed -= removed % (stride**2 - 1)
    assert made.size == grid.tokens - removed < grid.tokens
    assert not made.ragged
    assert made.slots.shape == (batch, grid.tokens) and made.slots.dtype == torch.int64
    assert made.slots.min() >= 0 and made.slots.max() < made.size
    assert made.counts.shape == (batch, made.size)
    assert (made.counts >= 1).all() and (made.counts.sum(1) == grid.tokens).all()

    reduced = made.apply(y)
    restored = made.undo(reduced)
    assert reduced.shape == (batch, made.size, 12) and restored.shape == y.shape
    assert (made.kept is None) != name.startswith("sito")
    for b in range(batch):
        for slot in range(made.size):
            members = made.slots[b] == slot
            assert (restored[b, members] == reduced[b, slot]).all()
            if made.kept is None:
                assert_close(reduced[b, slot], y[b, members].mean(0), rtol=0, atol=1e-5)
            else:
                token = made.kept[b, slot]
                assert members[token] and torch.equal(reduced[b, slot], y[b, token])
    if made.kept is None:
        assert_close(restored.sum(1), y.sum(1), rtol=0, atol=1e-4)
    assert_close(made.apply(restored), reduced, rtol=0, atol=1e-5)


@fits
def test_a_batch_is_its_samples(name, grid, stride):
    x = tokens(3, grid)
    compressor = QUERIES[name](0.5, stride)
    whole = plan(compressor, x, grid, keys(3))
    if (name, grid, stride) != ("abm", TokenGrid(7, 5), 3):  # both of its cells merge
        assert len({tuple(row) for row in whole.slots.tolist()}) == 3
    for b in range(3):
        one = plan(compressor, x[b : b + 1], grid, KeyedStream(keys(3).keys[b : b + 1]))
        assert torch.equal(one.slots, whole.slots[b : b + 1])
    order = torch.tensor([2, 0, 1])
    permuted = plan(compressor, x[order], grid, KeyedStream(keys(3).keys[order]))
    assert torch.equal(permuted.slots, whole.slots[order])


@fits
def test_ratio_0_is_the_identity(name, grid, stride):
    y = tokens(2, grid, 1)
    made = plan(QUERIES[name](0.0, stride), tokens(2, grid), grid, keys(2))
    assert torch.equal(made.apply(y), y) and torch.equal(made.undo(y), y)


@queries
@pytest.mark.parametrize("grid", [TokenGrid(6, 6), TokenGrid(12, 18)])
@strides
def test_highest_ratio_leaves_a_token_a_cell(name, grid, stride):
    made = plan(QUERIES[name](1 - 1 / stride**2, stride), tokens(2, grid), grid, keys(2))
    assert made.size == grid.tokens // stride**2


@queries
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_decides_as_float32(name, dtype):
    """On the same values, at the size and width of a real U-Net block."""
    grid = TokenGrid(32, 32)
    x = torch.randn(2, grid.tokens, 320, generator=torch.Generator().manual_seed(0)).to(dtype)
    half, full = (plan(QUERIES[name](0.5, 2), z, grid, keys(2)) for z in (x, x.float()))
    assert torch.equal(half.slots, full.slots)
    reduced = half.apply(x)
    assert reduced.dtype == half.undo(reduced).dtype == dtype
    assert_close(reduced.float(), full.apply(x.float()), rtol=torch.finfo(dtype).eps, atol=1e-6)


@keys_values
@grids
@strides
@batches
def test_downsampled_size_and_samples(name, grid, stride, batch):
    x, t = tokens(batch, grid), TIMESTEPS[:batch]
    compressor = KEYS_VALUES[name](stride)
    coarse = downsample(compressor, x, grid, t)
    assert coarse.shape == (batch, (grid.height // stride) * (grid.width // stride), 12)
    for b in range(batch):
        one = x[b : b + 1]
        alone = downsample(compressor, one, grid, t[b : b + 1])
        assert torch.equal(alone, coarse[b : b + 1])
    order = torch.arange(batch).flip(0)
    permuted = downsample(compressor, x[order], grid, t[order])
    assert torch.equal(permuted, coarse[order])


@keys_values
@grids
def test_factor_1_is_the_identity(name, grid):
    x = tokens(3, grid)
    assert torch.equal(downsample(KEYS_VALUES[name](1), x, grid, TIMESTEPS), x)


@keys_values
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_downsampling_keeps_the_precision(name, dtype):
    grid = TokenGrid(8, 8)
    x = tokens(3, grid).to(dtype)
    half, full = (downsample(KEYS_VALUES[name](2), z, grid, TIMESTEPS) for z in (x, x.float()))
    assert half.dtype == dtype
    assert_close(half.float(), full, rtol=0, atol=8 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("name", [*QUERIES, *KEYS_VALUES])
def test_tokens_off_the_grid_are_refused(name):
    compressor = QUERIES[name](0.5, 2) if name in QUERIES else KEYS_VALUES[name](2)
    for shape in ((2, 63, 4), (2, 65, 4), (64, 4), (2, 8, 8, 4)):
        with pytest.raises(ValueError, match=r"expected \[batch, 64, channels\] for a 8x8 grid"):
            compressor.plan(torch.randn(shape), TokenGrid(8, 8), TIMESTEPS)


@queries
def test_equal_tokens_do_not_break_it(name):
    """A flat image ties every decision."""
    grid = TokenGrid(8, 8)
    for x in (torch.zeros(2, 64, 4), torch.ones(2, 64, 4)):
        made = plan(QUERIES[name](0.5, 2), x, grid, keys(2))
        assert (made.counts >= 1).all()
        assert torch.equal(made.undo(made.apply(x)), x)
