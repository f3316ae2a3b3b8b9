"""ToMe against the installed tomesd 0.1.3, and its cells and draws."""

import pytest
import torch
from tomesd.merge import bipartite_soft_matching_random2d
from torch import Tensor
from torch.testing import assert_close

from bigain.compressors import TokenGrid, ToMe
from bigain.compressors.matching import cell_tokens, loose_tokens, split_cells
from bigain.utils.randomness import KeyedStream

GRIDS = [TokenGrid(16, 16), TokenGrid(24, 16), TokenGrid(10, 16), TokenGrid(7, 5), TokenGrid(9, 9)]


def tokens(grid: TokenGrid, seed: int = 0) -> Tensor:
    return torch.randn(3, grid.tokens, 12, generator=torch.Generator().manual_seed(seed))


class Drawn:
    """A stream that returns what another generator drew."""

    def __init__(self, seed: int, grid: TokenGrid, stride: int) -> None:
        size = (grid.height // stride, grid.width // stride, 1)
        generator = torch.Generator().manual_seed(seed)
        self.drawn = torch.randint(stride**2, size, generator=generator)

    def integers(self, high: int, *shape: int) -> Tensor:
        assert self.drawn.max() < high
        return self.drawn.view(1, *shape)


@pytest.mark.parametrize("grid", GRIDS, ids=lambda g: f"{g.height}x{g.width}")
@pytest.mark.parametrize("stride", [2, 3])
@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.75])
@pytest.mark.parametrize("destinations", ["first", "random"])
def test_is_tomesd(grid, stride, ratio, destinations):
    x, y = tokens(grid), tokens(grid, 1)
    merge, unmerge = bipartite_soft_matching_random2d(
        x,
        grid.width,
        grid.height,
        stride,
        stride,
        int(ratio * grid.tokens),
        no_rand=destinations == "first",
        generator=torch.Generator().manual_seed(5),
    )
    rng = Drawn(5, grid, stride)
    queries = ToMe(ratio, stride, destinations=destinations).plan(x, grid, rng=rng).queries
    reduced, want = queries.apply(y), merge(y)
    norms, want_norms = (z.norm(dim=-1).sort(-1).values for z in (reduced, want))
    assert_close(norms, want_norms, rtol=0, atol=1e-5)
    assert_close(queries.undo(reduced), unmerge(want), rtol=0, atol=1e-5)


@pytest.mark.parametrize("grid", [*GRIDS, TokenGrid(2, 2), TokenGrid(3, 8)])
@pytest.mark.parametrize("stride", [2, 3])
def test_cells_and_loose_tokens_part_the_grid(grid, stride):
    if min(grid.height, grid.width) < stride:
        with pytest.raises(ValueError, match=f"2x2 token grid holds no {stride}x{stride} cell"):
            cell_tokens(grid, stride, torch.device("cpu"))
        return
    cells = cell_tokens(grid, stride, torch.device("cpu"))
    wide = grid.width // stride
    for k, cell in enumerate(cells.tolist()):
        top, left = (k // wide) * stride, (k % wide) * stride
        square = [(top + i) * grid.width + left + j for i in range(stride) for j in range(stride)]
        assert cell == square
    loose = loose_tokens(grid, stride, torch.device("cpu"))
    everything = torch.cat([cells.flatten(), loose])
    assert everything.sort().values.tolist() == list(range(grid.tokens))

    chosen = torch.randint(stride**2, (3, len(cells)), generator=torch.Generator().manual_seed(0))
    destinations, sources = split_cells(chosen, grid, stride)
    for b in range(3):
        assert destinations[b].tolist() == [cells[k, c].item() for k, c in enumerate(chosen[b])]
        both = torch.cat([destinations[b], sources[b]])
        assert both.sort().values.tolist() == list(range(grid.tokens))


def test_random_destinations_are_drawn_for_each_sample():
    grid = TokenGrid(16, 16)
    x = tokens(grid)[:1].expand(3, -1, -1)
    rng = KeyedStream.of(0, "tome", ["a", "a", "b"])
    slots = ToMe(0.5).plan(x, grid, rng=rng).queries.slots
    assert torch.equal(slots[0], slots[1]) and not torch.equal(slots[0], slots[2])
    again = ToMe(0.5).plan(x, grid, rng=rng).queries.slots
    assert torch.equal(slots, again)


def test_without_a_stream_every_sample_draws_the_same():
    grid = TokenGrid(16, 16)
    x = tokens(grid)[:1].expand(3, -1, -1)
    slots = ToMe(0.5).plan(x, grid).queries.slots
    assert torch.equal(slots[0], slots[1]) and torch.equal(slots[0], slots[2])
    first = ToMe(0.5, destinations="first").plan(x, grid).queries.slots
    assert not torch.equal(slots, first)
