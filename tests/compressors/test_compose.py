"""Compressors made of compressors."""

from typing import Any

import pytest
import torch
from torch.testing import assert_close

from bigain import compress
from bigain.compressors import (
    ABM,
    IEKVD,
    LGTM,
    Cached,
    Compose,
    LinearAlpha,
    SiTo,
    ToDo,
    TokenGrid,
    ToMe,
    downsample,
)
from tests.planned import planned

BOTH = Compose(LGTM(0.5), ToDo(2))


@pytest.mark.parametrize("compressor", [BOTH, Compose(ToDo(2), LGTM(0.5))])
def test_plan_has_both_fields(compressor):
    grid = TokenGrid(8, 8)
    x = torch.randn(2, 64, 8, generator=torch.Generator().manual_seed(0))
    made = compressor.plan(x, grid)
    assert compressor.shortens == {"queries", "keys_values"}
    assert torch.equal(made.queries.slots, LGTM(0.5).plan(x, grid).queries.slots)
    assert torch.equal(made.keys_values(x), downsample.nearest(x, grid, 2))


def test_keys_and_values_come_from_the_whole_grid(unet):
    """attn1 gets the merged tokens, and the downsampled tokens from before merging."""
    block = next(m for m in unet.model.modules() if hasattr(m, "attn1"))
    seen: list[Any] = []

    def watch(module, args, kwargs):
        seen.append((args[0], kwargs["encoder_hidden_states"]))

    before = block.attn1.register_forward_pre_hook(watch, with_kwargs=True)
    with compress(unet.model, BOTH):
        after = block.attn1.register_forward_pre_hook(watch, with_kwargs=True)
        unet()
    before.remove()
    after.remove()
    (whole, none), (queries, keys_values) = seen
    assert none is None
    assert whole.shape[1] == 256 and queries.shape[1] == 128
    assert torch.equal(keys_values, downsample.nearest(whole, TokenGrid(16, 16), 2))


@pytest.mark.parametrize("name", ["unet", "dit"])
@pytest.mark.parametrize("part", [ABM(threshold=75.0), ToMe(0.5), SiTo(0.5)], ids=repr)
def test_a_batch_is_its_samples(name, part, request):
    golden = request.getfixturevalue(name).double()
    with compress(golden.model, Compose(part, IEKVD(2, LinearAlpha()))):
        whole = golden()
        alone = torch.cat([golden(**golden.one(i)) for i in range(3)])
    assert_close(whole, alone, rtol=0, atol=1e-9)
    assert (whole - golden()).abs().max() > 0.01


@pytest.mark.parametrize(
    "parts",
    [(LGTM(0.5), ToMe(0.5)), (ToDo(2), IEKVD(2)), (LGTM(0.5), ToDo(2), ABM(0.5)), (BOTH, ToDo(2))],
    ids=repr,
)
def test_two_of_a_kind_are_refused(parts):
    with pytest.raises(ValueError, match=r"combines one compressor of queries .* got .*2"):
        Compose(*parts)


def test_one_is_refused():
    with pytest.raises(ValueError, match="at least two compressors, got 1"):
        Compose(LGTM(0.5))


@pytest.mark.parametrize("compressor", [ToDo(2), BOTH])
def test_only_merging_is_cached(compressor):
    with pytest.raises(ValueError, match="Cached takes a merging or pruning compressor, got"):
        Cached(compressor)


@pytest.mark.parametrize(
    ("compressor", "plans"),
    [
        (LGTM(0.5), [(16, 16)] * 3 + [(8, 8)] * 3 + [(4, 4)]),
        (Cached(LGTM(0.5)), [(16, 16), (8, 8), (4, 4)]),
        (Compose(Cached(LGTM(0.5)), ToDo(2)), [(16, 16), (8, 8), (4, 4)]),
    ],
    ids=repr,
)
def test_cached_plans_once_a_grid_and_forward(unet, compressor, plans):
    with compress(unet.model, compressor, blocks="all") as attachment:
        made = planned(attachment)
        for forward in (1, 2):
            unet()
            sides = [(each.grid.height, each.grid.width) for each in made]
            assert sorted(sides, reverse=True) == sorted(plans * forward, reverse=True)
        first = unet(timestep=torch.tensor([1, 2, 3]))
    with compress(unet.model, compressor, blocks="all"):
        assert torch.equal(first, unet(timestep=torch.tensor([1, 2, 3])))  # nothing was left over


def test_cached_reuses_the_first_blocks_map(unet, monkeypatch):
    maps: list[Any] = []
    with compress(unet.model, Cached(LGTM(0.5))) as attachment:
        plan_of = attachment._plan_of

        def watch(index, samples):
            plan = plan_of(index, samples)
            maps.append((index, plan.queries))
            return plan

        monkeypatch.setattr(attachment, "_plan_of", watch)
        cached = unet()
    assert {index for index, _ in maps} == {0, 1, 2}
    assert all(queries is maps[0][1] for _, queries in maps)
    with compress(unet.model, LGTM(0.5)):
        assert (unet() - cached).abs().max() > 1e-3
