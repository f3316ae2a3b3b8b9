"""TokenGrid and TokenMap by hand."""

import pytest
import torch
from torch.testing import assert_close

from bigain.compressors import TokenGrid, TokenMap
from bigain.compressors.tokens import marked

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
