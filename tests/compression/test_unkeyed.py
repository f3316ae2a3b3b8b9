"""A compressor with random numbers of its own is refused, and told of the keyed ones."""

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bigain import compress
from bigain.compression.unkeyed import UnkeyedDrawError, check_trial
from bigain.compressors import Compressor, Plan, TokenGrid
from bigain.compressors.base import keyed
from bigain.compressors.by_name import NAMES
from bigain.compressors.tokens import TokenMap

SEEDED = torch.Generator().manual_seed(0)
NUMPY = np.random.default_rng(0)


def draw(kind: str, x: Tensor, n: int, rng: Any = None) -> Tensor:
    """A random order of n tokens for each sample, [B, n]."""
    b = len(x)
    if kind == "rand":
        return torch.rand(b, n).argsort(1)
    if kind == "rand on the device":
        return torch.rand(b, n, device=x.device).argsort(1)
    if kind == "randn":
        return torch.randn_like(x[..., 0]).argsort(1)
    if kind == "randperm, the same for all samples":
        return torch.randperm(n).repeat(b, 1)
    if kind == "multinomial":
        return torch.multinomial(torch.ones(b, n), n)
    if kind == "a generator of its own":
        return torch.rand(b, n, generator=SEEDED).argsort(1)
    if kind == "one seeded in plan":
        return torch.rand(b, n, generator=torch.Generator().manual_seed(0)).argsort(1)
    if kind == "NumPy":
        return torch.from_numpy(np.random.rand(b, n)).argsort(1)
    if kind == "NumPy's new kind":
        return torch.from_numpy(NUMPY.random((b, n))).argsort(1)
    if kind == "Python":
        return torch.tensor([random.sample(range(n), n) for _ in range(b)])
    assert kind == "keyed"
    return keyed(rng, x).uniform(n).argsort(1).expand(b, n)


UNKEYED = [
    "rand",
    "rand on the device",
    "randn",
    "randperm, the same for all samples",
    "multinomial",
    "a generator of its own",
    "one seeded in plan",
    "NumPy",
    "NumPy's new kind",
    "Python",
]
WORDS = r"Pairs\.plan draws random .* keyed\(rng, x\)\.uniform\(grid\.tokens\)"


@dataclass(frozen=True)
class Pairs(Compressor):
    """Merge random pairs of tokens, from a timestep on."""

    kind: str
    since: int = 0

    @property
    def shortens(self) -> frozenset[str]:
        return frozenset({"queries"})

    def plan(self, x, grid, t=None, rng=None, block=0):
        order = torch.arange(grid.tokens).repeat(len(x), 1)
        if int(t[0]) >= self.since:
            order = draw(self.kind, x, grid.tokens, rng)
        return Plan(queries=TokenMap(order.to(x.device) // 2, grid.tokens // 2))


@pytest.mark.parametrize("kind", UNKEYED)
def test_unkeyed_draws_are_refused_at_once(kind, unet):
    with pytest.raises(UnkeyedDrawError, match=WORDS):
        compress(unet.model, Pairs(kind))


GLOBAL = [k for k in UNKEYED if k not in ("a generator of its own", "one seeded in plan")]
GLOBAL.remove("NumPy's new kind")


@pytest.mark.parametrize("kind", GLOBAL)
def test_draws_that_the_trial_does_not_see_are_refused_in_a_forward(kind, unet):
    timestep = torch.full((3,), 900)
    with (
        compress(unet.model, Pairs(kind, since=800)),
        pytest.raises(UnkeyedDrawError, match=WORDS),
    ):
        unet(timestep=timestep)


def test_keyed_draws_are_accepted_and_equal_for_equal_keys(unet):
    with compress(unet.model, Pairs("keyed")):
        first = unet()
        assert torch.equal(unet(), first)


def test_the_trial_accepts_every_compressor_here():
    for name, kind in NAMES.items():
        given = {"frequency": {"keep": "low"}, "abm": {"ratio": 0.5}}.get(name, {})
        compressor = kind(**given)
        for side in (2, 3, 5, 8, 16, 64):
            check_trial(compressor, TokenGrid(side, side), 32)


def test_the_trial_leaves_the_generators_alone(unet):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[2]
    with compress(unet.model, "sito"):
        unet()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[2]) == before[1:]
