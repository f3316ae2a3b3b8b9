"""L-GTM's destinations."""

import pytest
import torch
from torch import Tensor

from bigain.compressors import LGTM, TokenGrid, lgtm
from bigain.compressors.matching import cell_tokens, merge_into
from bigain.compressors.spectrum import SCORES


@pytest.fixture
def chosen(monkeypatch):
    """plan(), then the position in its cell of every destination, [B, cells]."""
    seen: list[Tensor] = []

    def spy(x, positions, *rest):
        seen.append(positions)
        return merge_into(x, positions, *rest)

    monkeypatch.setattr(lgtm, "merge_into", spy)

    def destinations(compressor: LGTM, x: Tensor, grid: TokenGrid) -> Tensor:
        compressor.plan(x, grid)
        return seen.pop()

    return destinations


def tokens(grid: TokenGrid) -> Tensor:
    return torch.randn(4, grid.tokens, 12, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("grid", [TokenGrid(16, 16), TokenGrid(24, 16), TokenGrid(9, 7)])
@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("pick", ["lowest", "highest"])
def test_destination_is_the_extreme_of_its_cell(chosen, grid, stride, score, pick):
    x = tokens(grid)
    got = chosen(LGTM(0.5, stride, destinations=pick, score=score), x, grid)
    scores = SCORES[score](x, grid)
    extreme = min if pick == "lowest" else max
    for b in range(len(x)):
        for k, cell in enumerate(cell_tokens(grid, stride, x.device).tolist()):
            assert cell[got[b, k]] == extreme(cell, key=lambda i: float(scores[b, i]))


def test_official_destinations_are_the_minimum_by_chance_alone(chosen):
    grid = TokenGrid(32, 32)
    x = tokens(grid)
    paper, official = (chosen(LGTM(0.5, cells=cells), x, grid) for cells in ("paper", "official"))
    assert 0.2 < (paper == official).float().mean() < 0.32


def test_official_takes_runs_of_consecutive_tokens(chosen):
    grid = TokenGrid(4, 8)
    x = tokens(grid)
    scores = SCORES["laplacian_l1"](x, grid)
    got = chosen(LGTM(0.5, cells="official"), x, grid)
    for b in range(len(x)):
        runs = [scores[b, i : i + 4].argmin().item() for i in range(0, grid.tokens, 4)]
        assert got[b].tolist() == runs


def test_destinations_are_kept_and_receive(chosen):
    """At ratio 3/4 each slot holds exactly one destination, and all sources merge."""
    grid = TokenGrid(16, 16)
    x = tokens(grid)
    compressor = LGTM(0.75)
    got = chosen(compressor, x, grid)
    cells = cell_tokens(grid, 2, x.device).expand(len(x), -1, -1)
    destinations = cells.gather(2, got.unsqueeze(-1)).squeeze(-1)
    slots = compressor.plan(x, grid).queries.slots.gather(1, destinations)
    assert slots.sort(1).values.tolist() == [list(range(64))] * len(x)


@pytest.mark.parametrize("settings", [{"cells": "official"}, {"destinations": "highest"}])
def test_settings_change_the_map(settings):
    grid = TokenGrid(16, 16)
    x = tokens(grid)
    slots = LGTM(0.5).plan(x, grid).queries.slots
    assert not torch.equal(LGTM(0.5, **settings).plan(x, grid).queries.slots, slots)


@pytest.mark.parametrize("grid", [TokenGrid(7, 8), TokenGrid(8, 7)])
def test_official_refuses_sides_that_do_not_divide(grid):
    with pytest.raises(ValueError, match=r"divisible by stride 2, got .*; use cells='paper'"):
        LGTM(0.5, cells="official").plan(tokens(grid), grid)
