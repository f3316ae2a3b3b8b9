"""Matching and scores made block by block are those made at once."""

from unittest.mock import Mock

import pytest
import torch
from torch.testing import assert_close

from bigain.compressors import TokenGrid, matching, spectrum
from bigain.compressors.matching import nearest_destination, split_cells
from bigain.compressors.spectrum import SCORES, score

GRID = TokenGrid(6, 8)


def tokens(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(5, GRID.tokens, 16, generator=torch.Generator().manual_seed(0)).to(dtype)


def parted() -> tuple[torch.Tensor, torch.Tensor]:
    """Sources [5, 36] and destinations [5, 12]."""
    chosen = torch.randint(4, (5, 12), generator=torch.Generator().manual_seed(1))
    destinations, sources = split_cells(chosen, GRID, 2)
    return sources, destinations


@pytest.mark.parametrize("block", [1, 50, 12 * 36, 2 * 12 * 36, 10**6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_blocks_change_no_decision(dtype, block, monkeypatch):
    """One row, some rows, a sample, two samples and all of them at a time."""
    monkeypatch.setattr(matching, "BLOCK", block)
    x = tokens(dtype)
    sources, destinations = parted()
    best, match = nearest_destination(x, sources, destinations)
    z = torch.nn.functional.normalize(x.double(), dim=-1)
    similarity = matching.take(z, sources) @ matching.take(z, destinations).mT
    want, where = similarity.max(-1)
    assert torch.equal(match, destinations.gather(1, where))
    assert best.dtype == torch.float32
    assert_close(best.double(), want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [1, 64, 512, 528, 544, 1024])
@pytest.mark.parametrize("values", ["floats", "ties", "nan"])
def test_the_largest_is_the_first_largest(size, values):
    """Short rows and those that neither 64 nor 32 divides are searched whole, others by pieces."""
    x = torch.randn(3, 50, size, generator=torch.Generator().manual_seed(0))
    if values == "ties":
        x = x.round()
    elif values == "nan":
        x[:, ::2, size // 2 :] = torch.nan
    best, place = matching.largest(x)
    wanted, where = x.max(-1)
    assert_close(best, wanted, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(place, where)


@pytest.mark.parametrize(("size", "pieces"), [(448, 0), (512, 1), (528, 0), (544, 1)])
def test_long_rows_are_searched_by_pieces(size, pieces, monkeypatch):
    take = Mock(wraps=matching.take)
    monkeypatch.setattr(matching, "take", take)
    matching.largest(torch.randn(2, 3, size))
    assert take.call_count == pieces


def test_the_cpus_way_of_multiplying_is_put_back():
    settings = getattr(torch.backends.mkldnn, "matmul", None)
    if settings is None:
        pytest.skip("torch has no such setting before 2.9")
    before = settings.fp32_precision
    nearest_destination(tokens(torch.bfloat16), *parted())
    assert settings.fp32_precision == before


@pytest.mark.parametrize("name", SCORES)
def test_parts_change_no_score(name, monkeypatch):
    x = tokens()
    want = score(name, x, GRID)
    monkeypatch.setattr(spectrum, "PART", 1)
    assert_close(score(name, x, GRID), want, rtol=0, atol=1e-5)
