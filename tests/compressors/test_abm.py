"""Adaptive block merging."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from bigain import compress
from bigain.compressors import ABM, TokenGrid
from bigain.compressors.matching import cell_tokens
from bigain.compressors.spectrum import laplacian_l1


def tokens(grid: TokenGrid, batch: int = 2) -> Tensor:
    return torch.randn(batch, grid.tokens, 8, generator=torch.Generator().manual_seed(0))


def cell_scores(x: Tensor, grid: TokenGrid, stride: int = 2) -> Tensor:
    """The highest score in each cell, [B, cells]."""
    return laplacian_l1(x, grid)[:, cell_tokens(grid, stride, x.device)].amax(-1)


def whole_cells(slots: Tensor, grid: TokenGrid, stride: int = 2) -> Tensor:
    """Which cells share one slot, bool [B, cells]."""
    slots = slots[:, cell_tokens(grid, stride, slots.device)]
    return (slots == slots[..., :1]).all(-1)


@pytest.mark.parametrize("grid", [TokenGrid(12, 12), TokenGrid(9, 9), TokenGrid(6, 12)])
@pytest.mark.parametrize("stride", [2, 3])
def test_merges_the_smoothest_cells(grid, stride):
    x = tokens(grid)
    queries = ABM(0.5, stride=stride).plan(x, grid).queries
    count = int(0.5 * grid.tokens) // (stride**2 - 1)
    merged = whole_cells(queries.slots, grid, stride)
    assert merged.sum(1).tolist() == [count, count]
    assert queries.counts.unique().tolist() == [1, stride**2]
    scores = cell_scores(x, grid, stride)
    for b in range(2):
        assert scores[b, merged[b]].max() < scores[b, ~merged[b]].min()


def test_threshold_is_on_the_roughest_token_of_a_cell():
    grid = TokenGrid(8, 8)
    x = tokens(grid)
    scores = cell_scores(x, grid)
    threshold = scores[0].sort().values[5].item()  # at most: this cell merges too
    queries = ABM(threshold=threshold).plan(x, grid).queries
    assert queries.ragged
    assert torch.equal(whole_cells(queries.slots, grid), scores <= threshold)
    filled = (queries.counts > 0).sum(1)
    assert torch.equal(filled, 64 - 3 * (scores <= threshold).sum(1))
    assert queries.size == filled.max()
    for counts, n in zip(queries.counts, filled, strict=True):
        assert (counts[:n] > 0).all()  # empty slots come last
    y = tokens(grid) + 1
    reduced = queries.apply(y)
    assert (reduced[queries.counts == 0] == 0).all()
    assert_close(queries.undo(reduced).sum(1), y.sum(1), rtol=0, atol=1e-4)


def test_threshold_below_every_score_is_the_identity(unet):
    grid = TokenGrid(8, 8)
    x = tokens(grid)
    queries = ABM(threshold=-1).plan(x, grid).queries
    assert torch.equal(queries.slots, torch.arange(64).expand(2, -1))
    assert torch.equal(queries.apply(x), x)
    plain = unet()
    with compress(unet.model, ABM(threshold=-1)):
        assert_close(unet(), plain, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["unet", "dit"])
def test_ragged_batch_equals_its_samples(name, request):
    """Samples fill different numbers of slots; attention must mask the empty ones."""
    golden = request.getfixturevalue(name).double()
    seen: list[Tensor] = []

    def watch(compressor, x, grid, t, rng, block):
        seen.append(cell_scores(x, grid))
        return compressor.plan(x, grid, t, rng)

    with compress(golden.model, ABM(threshold=-1)) as attachment:
        attachment.planner = watch
        golden()
    # between two scores, so that rounding decides nothing
    compressor = ABM(threshold=seen[0].quantile(0.5).item())
    filled: list[Tensor] = []

    def count(compressor, x, grid, t, rng, block):
        made = compressor.plan(x, grid, t, rng)
        filled.append((made.queries.counts > 0).sum(1))
        return made

    with compress(golden.model, compressor) as attachment:
        attachment.planner = count
        whole = golden()
        assert len(filled[0].unique()) == 3 and filled[0].max() < 256
        alone = torch.cat([golden(**golden.one(i)) for i in range(3)])
    assert_close(whole, alone, rtol=0, atol=1e-9)
    assert (whole - golden()).abs().max() > 0.01


def test_ratio_that_the_whole_cells_cannot_give_is_refused():
    grid = TokenGrid(7, 5)  # six whole cells, eighteen tokens to merge away
    assert ABM(18 / 35).plan(tokens(grid), grid).queries.size == 17
    with pytest.raises(ValueError, match=r"needs 8 whole cells, but a 7x5 .* ratio is 0\.5143"):
        ABM(0.75).plan(tokens(grid), grid)


@pytest.mark.parametrize("settings", [{}, {"ratio": 0.5, "threshold": 1.0}])
def test_needs_one_of_ratio_and_threshold(settings):
    with pytest.raises(ValueError, match="ABM: give either ratio or threshold, got ratio="):
        ABM(**settings)
