"""Places of a cell that change from block to block."""

from itertools import pairwise

import pytest
import torch

from bigain.compressors import IEKVD, LGTM, KVMerge, Plan, ToDo, TokenGrid, ToMe, downsample, places
from bigain.utils.randomness import KeyedStream


@pytest.mark.parametrize("stride", [2, 3, 4])
def test_the_order_visits_every_place_and_jumps_far(stride):
    order = places.order(stride)
    assert sorted(order) == list(range(stride**2))
    apart = [places._distance(a, b, stride) for a, b in pairwise(order)]
    assert apart[0] == 2 * (stride // 2) ** 2  # as far as the edges, which meet, allow
    assert [places.in_block(b, stride) for b in range(2 * stride**2)] == [*order, *order]


def test_the_order_of_four_is_that_of_bayers_matrix():
    assert places.order(2) == (0, 3, 1, 2)
    assert places.order(1) == (0,)


@pytest.mark.parametrize("rank", range(4))
def test_a_rank_of_the_scores(rank):
    scores = torch.tensor([[[3.0, 1.0, 2.0, 0.0], [0.0, 0.0, 5.0, 1.0]]])
    want = [[3, 1, 2, 0], [0, 1, 3, 2]]  # equal scores in the order of their places
    assert places.by_score(scores, "cycle", rank).tolist() == [[row[rank] for row in want]]
    assert torch.equal(places.by_score(scores, "cycle", rank + 4), scores.argsort(-1)[..., rank])


CYCLES = {
    "tome": ToMe(0.75, destinations="cycle"),
    "lgtm": LGTM(0.75, destinations="cycle"),
    "kv_merge": KVMerge(0.75, destinations="cycle", merge="keep"),
    "todo": ToDo(2, place="cycle"),
    "iekvd": IEKVD(2, alpha=1.0, place="cycle"),
}


def kept(plan: Plan, grid: TokenGrid) -> set[int]:
    """The tokens that a plan leaves where each cell keeps one."""
    index = torch.arange(grid.tokens, dtype=torch.float64).view(1, -1, 1)
    if plan.keys_values is not None:
        return set(plan.keys_values(index).flatten().long().tolist())
    assert plan.queries is not None and plan.queries.destinations is not None
    return set(plan.queries.destinations.flatten().tolist())


@pytest.mark.parametrize("name", CYCLES)
def test_four_blocks_take_every_token_once(name):
    grid = TokenGrid(8, 6)
    x = torch.randn(1, grid.tokens, 5, generator=torch.Generator().manual_seed(0)).double()
    taken = [kept(CYCLES[name].plan(x, grid, block=b), grid) for b in range(8)]
    assert all(len(tokens) == 12 for tokens in taken)
    assert set.union(*taken[:4]) == set(range(grid.tokens))
    assert taken[4:] == taken[:4]


@pytest.mark.parametrize(
    ("height", "width", "factor"), [(7, 5, 2), (8, 6, 2), (9, 8, 3), (4, 4, 1)]
)
def test_a_random_place_lies_in_its_cell(height, width, factor):
    grid, draws = TokenGrid(height, width), KeyedStream(torch.arange(50))
    x = torch.zeros(50, grid.tokens, 1)
    index = downsample.taken("random", x, grid, factor, draws, 0)
    first = downsample.starts(grid, factor, 0, x.device)
    index = index.expand(50, len(first))
    down, right = index // width - first // width, index % width - first % width
    assert set(down.flatten().tolist()) == set(right.flatten().tolist()) == set(range(factor))
    assert factor == 1 or not torch.equal(index[0], index[1])


def test_draws_are_keyed():
    grid, keys = TokenGrid(8, 8), torch.tensor([5, 5, 6])
    x = torch.randn(1, 64, 3).expand(3, -1, -1)
    for compressor in (ToDo(2, place="random"), IEKVD(2, place="random")):
        shorten = compressor.plan(x, grid, rng=KeyedStream(keys)).keys_values
        assert shorten is not None
        one, same, other = shorten(x)
        assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ToDo(2, place="moving"), "place must be one of fixed, cycle, random"),
        (lambda: IEKVD(2, place="moving"), "place must be one of fixed, cycle, random"),
        (lambda: ToDo(2, "mean", place="cycle"), "moves the token that pool=nearest takes"),
        (lambda: ToDo(2, place="cycle", queries="coarse"), "set these, or place=fixed"),
        (lambda: LGTM(destinations="cycle", protect={"share": 0.1}), "must not be protected"),
    ],
)
def test_what_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
