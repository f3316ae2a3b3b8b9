"""L-GTM's destinations."""

import pytest
import torch
from torch import Tensor

from bigain.compressors import LGTM, Compose, ToDo, TokenGrid, lgtm, places
from bigain.compressors.matching import cell_tokens, split_cells
from bigain.compressors.spectrum import SCORES, score


@pytest.fixture
def chosen(monkeypatch):
    """plan(), then the position in its cell of every destination, [B, cells]."""
    seen: list[Tensor] = []

    def spy(positions, *rest):
        seen.append(positions)
        return split_cells(positions, *rest)

    for module in (lgtm, places):
        monkeypatch.setattr(module, "split_cells", spy)

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


@pytest.mark.parametrize("share", [0.1, 0.24])
@pytest.mark.parametrize("pick", ["lowest", "highest"])
@pytest.mark.parametrize(
    ("order", "t", "first"),
    [
        ("highest", None, 1.0),
        ("lowest", None, 0.0),
        ("lowest_first", 1000, 0.0),
        ("lowest_first", 0, 1.0),
        ("lowest_first", 500, 0.5),
        ("highest_first", 1000, 1.0),
        ("highest_first", 250, 0.25),
    ],
)
def test_protected_tokens_do_not_merge(share, pick, order, t, first):
    """``first`` says where the protected ones begin in the order of scores, from the lowest."""
    grid = TokenGrid(16, 16)
    x = tokens(grid)
    compressor = LGTM(0.5, destinations=pick, protect={"share": share, "tokens": order})
    times = None if t is None else torch.full((len(x),), t)
    made = compressor.plan(x, grid, times).queries
    count = int(share * grid.tokens)
    start = int((grid.tokens - count) * first)
    ranked = score("laplacian_l1", x, grid).argsort(dim=1)[:, start : start + count]
    assert (made.counts.gather(1, made.slots.gather(1, ranked)) == 1).all()
    assert made.size == grid.tokens // 2 and (made.counts.sum(1) == grid.tokens).all()


def test_each_sample_is_protected_by_its_own_timestep():
    grid = TokenGrid(8, 8)
    x = tokens(grid)[:2]
    compressor = LGTM(0.5, protect={"share": 0.2, "tokens": "lowest_first"}).scheduled(40)
    both = compressor.plan(x, grid, torch.tensor([0, 40])).queries.slots
    for i, t in enumerate([0, 40]):
        alone = compressor.plan(x[i : i + 1], grid, torch.tensor([t])).queries.slots
        assert torch.equal(both[i : i + 1], alone)
    assert not torch.equal(both, compressor.plan(x, grid, torch.tensor([40, 0])).queries.slots)
    with pytest.raises(ValueError, match="needs each sample's timestep t"):
        compressor.plan(x, grid)


@pytest.mark.parametrize("merge", ["mean", "keep"])
def test_sources_match_within_their_window(merge):
    """Against matching each window as a grid of its own, and then the best of all sources."""
    grid, windows = TokenGrid(16, 8), 2
    x = tokens(grid)
    made = LGTM(0.3, windows=windows, merge=merge).plan(x, grid).queries
    rows, columns = torch.arange(grid.tokens) // 8, torch.arange(grid.tokens) % 8
    window = rows // 8 * windows + columns // 4
    own = torch.arange(grid.tokens)
    merged = made.destinations != own
    assert (merged.sum(1) == int(0.3 * grid.tokens)).all()
    assert (window[made.destinations] == window).all()
    chosen = (made.destinations == own).new_zeros(len(x), grid.tokens)
    cells = cell_tokens(grid, 2, x.device)
    lowest = score("laplacian_l1", x, grid)[:, cells].argmin(-1)
    chosen.scatter_(1, cells.expand(len(x), -1, -1).gather(2, lowest[..., None])[..., 0], True)
    z = torch.nn.functional.normalize(x, dim=-1)
    allowed = (window[:, None] == window) & chosen[:, None]
    best = (z @ z.mT).masked_fill(~allowed, -torch.inf)
    values = best.max(-1).values.masked_fill(chosen, -torch.inf)
    for b in range(len(x)):
        wanted = values[b].topk(int(0.3 * grid.tokens)).indices
        assert set(wanted.tolist()) == set(merged[b].nonzero().flatten().tolist())
        assert torch.equal(made.destinations[b][wanted], best[b].argmax(-1)[wanted])


@pytest.mark.parametrize(
    ("compressor", "words"),
    [
        (LGTM(0.5, protect={"share": 0.3}), "only 58 are left; lower ratio or protect.share"),
        (LGTM(0.5, windows=3), "sides divisible by 3 cells of 2 tokens"),
        (Compose(LGTM(0.5, proportional=True), ToDo(2)), "remove it"),
    ],
)
def test_what_does_not_fit_is_refused(compressor, words):
    grid = TokenGrid(16, 8)
    with pytest.raises(ValueError, match=words):
        compressor.plan(tokens(grid), grid)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"protect": {"share": 0.1}, "windows": 2}, "protect works with windows=1"),
        ({"protect": {"share": 0.1}, "cells": "official"}, "protect works with windows=1"),
        ({"protect": {"share": 1.0}}, r"share must lie in \[0, 1\)"),
        ({"protect": {"share": 0.1, "tokens": "some"}}, "highest, lowest"),
        ({"protect": {"shares": 0.1}}, "protect takes share and tokens, got {'shares': 0.1}"),
        ({"windows": 0}, "windows must be a whole number"),
    ],
)
def test_settings_that_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        LGTM(0.5, **settings)
