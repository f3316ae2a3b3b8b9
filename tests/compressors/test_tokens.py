"""TokenGrid and TokenMap by hand."""

import pytest
import torch
from torch.testing import assert_close

from bigain.compressors import (
    IEKVD,
    LGTM,
    Compose,
    FrequencyFilter,
    KVSelect,
    ToDo,
    TokenGrid,
    TokenMap,
)
from bigain.compressors.downsample import cells_map
from bigain.compressors.tokens import marked
from bigain.utils.randomness import KeyedStream

DESTINATIONS = torch.tensor([[0, 0, 2, 2, 2], [0, 1, 1, 4, 4]])
Y = torch.tensor([[1.0, 3, 6, 9, 0], [1, 2, 4, 8, 16]]).unsqueeze(-1)


@pytest.mark.parametrize("sides", [(0, 4), (4, 0), (-1, 4)])
def test_grid_needs_positive_sides(sides):
    with pytest.raises(ValueError, match="a token grid needs positive sides, got"):
        TokenGrid(*sides)


def test_ragged_mean():
    made = TokenMap.from_destinations(DESTINATIONS)
    assert made.ragged and made.size == 3
    assert made.slots.tolist() == [[0, 0, 1, 1, 1], [0, 1, 1, 2, 2]]
    assert made.counts.tolist() == [[2, 3, 0], [1, 2, 2]]
    reduced = made.apply(Y)
    assert reduced.squeeze(-1).tolist() == [[2, 5, 0], [1, 3, 12]]
    assert made.undo(reduced).squeeze(-1).tolist() == [[2, 2, 5, 5, 5], [1, 3, 3, 12, 12]]


def test_pruning_keeps_the_destination():
    made = TokenMap.from_destinations(DESTINATIONS[1:], 3, merge="keep")
    assert not made.ragged and made.kept is not None
    assert made.kept.tolist() == [[0, 1, 4]]
    reduced = made.apply(Y[1:])
    assert reduced.flatten().tolist() == [1, 2, 16]
    assert made.undo(reduced).flatten().tolist() == [1, 2, 2, 16, 16]


def test_every_slot_has_a_position():
    """That of the token that it keeps, or of its destination."""
    made = TokenMap.from_destinations(DESTINATIONS)
    assert made.tokens.tolist() == [[0, 2, 0], [0, 1, 4]]  # the empty slot is masked
    kept = TokenMap.from_destinations(DESTINATIONS[1:], 3, merge="keep")
    assert kept.tokens.tolist() == [[0, 1, 4]]
    x = torch.zeros(1, 16, 1)
    for keep in (True, False):
        cells = cells_map(x, TokenGrid(4, 4), 2, keep)
        assert cells.tokens.tolist() == [[5, 7, 13, 15]]
    with pytest.raises(ValueError, match=r"has no position; .* TokenMap\.from_destinations"):
        assert TokenMap(torch.zeros(1, 4, dtype=torch.int64), 1).tokens


@pytest.mark.parametrize(
    "compressor",
    [
        ToDo(2),
        ToDo(2, place="cycle"),
        ToDo(2, place="random"),
        IEKVD(2, alpha=1.0),
        IEKVD(2, alpha=1.0, place="random"),
        KVSelect(2),
        KVSelect(ratio=0.5),
        Compose(LGTM(0.5), ToDo(2)),
        FrequencyFilter("low", domain="cells"),
    ],
    ids=repr,
)
def test_every_key_has_a_position(compressor):
    """Those that are taken from tokens say from which; the mean of a cell says its middle."""
    grid = TokenGrid(4, 6)
    x = torch.randn(2, 24, 3, generator=torch.Generator().manual_seed(0))
    rng = KeyedStream.of(0, "positions", [1, 2])
    plan = compressor.plan(x, grid, torch.tensor([10, 20]), rng, 1)
    numbers = torch.arange(24.0).view(1, 24, 1).expand(2, -1, -1)
    keys = plan.keys_values(numbers).squeeze(-1)
    if isinstance(compressor, FrequencyFilter):
        assert plan.key_tokens.tolist() == [7, 9, 11, 19, 21, 23]
    else:
        assert torch.equal(keys.long(), plan.key_tokens.expand_as(keys))


def test_marked_tokens_are_in_order():
    mask = torch.tensor([[0, 1, 1, 0, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()
    assert marked(mask, 3).tolist() == [[1, 2, 4], [0, 0, 0], [0, 0, 0]]


def test_identity():
    made = TokenMap.identity(Y)
    assert made.size == 5 and not made.ragged and (made.counts == 1).all()
    assert torch.equal(made.apply(Y), Y) and torch.equal(made.undo(Y), Y)


def test_samples_do_not_mix():
    """NaN in one sample stays there."""
    y = Y.clone()
    y[0] = torch.nan
    made = TokenMap.from_destinations(DESTINATIONS)
    assert made.apply(y)[1].squeeze(-1).tolist() == [1, 3, 12]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_slots_do_not_lose_addends(dtype):
    """Summed in half precision, 4096 ones would stop at 2048 (float16) or 256 (bfloat16)."""
    made = TokenMap(torch.zeros(1, 4096, dtype=torch.int64), 1)
    assert made.apply(torch.ones(1, 4096, 2, dtype=dtype)).flatten().tolist() == [1, 1]


def test_gradient_reaches_every_token():
    y = Y.clone().requires_grad_()
    made = TokenMap.from_destinations(DESTINATIONS)
    made.undo(made.apply(y)).sum().backward()
    assert_close(y.grad, torch.ones_like(y))
