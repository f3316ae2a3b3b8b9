"""Keyed streams: reproducible anywhere, independent of what else is drawn."""

import inspect
import os
import shutil
import subprocess
import sys

import pytest
import torch
from torch.testing import assert_close

from bigain.utils import randomness
from bigain.utils.randomness import KeyedStream, _bits, _signed, key_of

IDS = ["cat.jpg", "dog.jpg", 7]
FROZEN_KEY = -3889860083276879704
FROZEN_INTEGERS = [[907, 548, 468, 190], [695, 353, 905, 258], [351, 897, 452, 845]]
FROZEN_NORMAL = [0.159666, 0.6326, 0.51504]
FROZEN_FORK = [452, 585, 385, 318]


def stream(ids=IDS, seed: int = 0, purpose: str = "noise") -> KeyedStream:
    return KeyedStream.of(seed, purpose, ids)


def splitmix64(seed: int, count: int) -> list[int]:
    """The published generator, in Python's integers."""
    mask, numbers = (1 << 64) - 1, []
    for _ in range(count):
        seed = (seed + 0x9E3779B97F4A7C15) & mask
        z = seed
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        numbers.append(z ^ (z >> 31))
    return numbers


def test_frozen_values():
    """Results in a store were drawn from these numbers: they may never change."""
    assert key_of(0, "noise", "cat.jpg") == FROZEN_KEY
    assert stream().integers(1000, 4).tolist() == FROZEN_INTEGERS
    assert_close(stream().normal(3)[0], torch.tensor(FROZEN_NORMAL))
    forked = stream().fork(torch.tensor([25.0])).fork(3)
    assert forked.integers(1000, 4)[0].tolist() == FROZEN_FORK


def test_bits_are_splitmix64():
    # 1234567 is the published test vector; the others reach the sign bit
    assert splitmix64(1234567, 2) == [6457827717110365317, 3203168211198807973]
    keys = [1234567, 0, -1, 1 << 62]
    bits = _bits(torch.tensor(keys), 100)
    for key, row in zip(keys, bits.tolist(), strict=True):
        assert [b % (1 << 64) for b in row] == splitmix64(key % (1 << 64), 100)


@pytest.mark.parametrize("draw", ["uniform", "normal", "integers"])
def test_batch_and_order_do_not_matter(draw):
    def numbers(s: KeyedStream) -> torch.Tensor:
        return s.integers(1 << 40, 4, 5) if draw == "integers" else getattr(s, draw)(4, 5)

    whole = numbers(stream())
    assert whole.shape == (3, 4, 5)
    assert torch.equal(numbers(stream(IDS[::-1])), whole.flip(0))
    for i, name in enumerate(IDS):
        assert torch.equal(numbers(stream([name])), whole[i : i + 1])
    assert torch.equal(numbers(stream([IDS[0]] * 2)), whole[[0, 0]])


@pytest.mark.parametrize("t", [[25, 325, 975], [25.0, 325.0, 975.0], [0.5, 1.5, 2.5]])
def test_forks_do_not_depend_on_the_batch(t):
    t = torch.tensor(t)
    whole = stream().fork(t).fork(3).uniform(5)
    for i, name in enumerate(IDS):
        one = stream([name]).fork(t[i : i + 1]).fork(3).uniform(5)
        assert torch.equal(one, whole[i : i + 1])


def test_drawing_leaves_no_trace():
    s = stream()
    first = s.normal(8)
    s.uniform(100)
    s.fork(1).normal(3)
    assert torch.equal(s.normal(8), first)


def test_longer_draws_extend_shorter_ones():
    assert torch.equal(stream().uniform(50)[:, :10], stream().uniform(10))


def test_fork_by_a_tensor_counts_by_value():
    """25 and 25.0 are one timestep, in any type; 25.5 is another."""
    draws = [
        stream().fork(torch.tensor([25], dtype=dtype)).uniform(4)
        for dtype in (torch.int64, torch.int32, torch.float32, torch.float64, torch.bfloat16)
    ]
    for other in draws[1:]:
        assert torch.equal(other, draws[0])
    assert torch.equal(stream().fork(torch.tensor(25)).uniform(4), draws[0])
    assert torch.equal(stream().fork(torch.tensor([25, 25, 25])).uniform(4), draws[0])
    assert not torch.equal(stream().fork(torch.tensor([25.5])).uniform(4), draws[0])


def test_different_seeds_purposes_ids_and_forks_differ():
    s = stream(["a"])
    streams = [
        s,
        stream(["b"]),
        stream(["a"], seed=1),
        stream(["a"], purpose="other"),
        *(s.fork(label) for label in (0, 1, -1, 2**40)),
        *(s.fork(torch.tensor([t])) for t in (1, 25, 1000)),
        s.fork(0).fork(0),
        s.fork(1).fork(2),
        s.fork(2).fork(1),
    ]
    firsts = {tuple(s.uniform(2)[0].tolist()) for s in streams}
    assert len(firsts) == len(streams)


def test_no_equal_streams_among_many():
    """10,000 images at 20 timesteps and 5 blocks: a million keys without a clash."""
    s = stream(range(10_000))
    assert len(s.uniform(1).unique()) == 10_000
    keys = torch.cat(
        [
            s.fork(torch.tensor([t])).fork(block).keys
            for t in range(25, 1000, 50)
            for block in range(5)
        ]
    )
    assert len(keys.unique()) == len(keys) == 1_000_000


def test_uniform_lies_inside_0_and_1(monkeypatch):
    u = stream(range(10)).uniform(10_000)
    assert u.dtype == torch.float64 and u.min() > 0 and u.max() < 1
    assert abs(u.mean() - 0.5) < 0.005 and abs(u.var() - 1 / 12) < 0.002
    for extreme in (0, -1):  # no bit set, and all of them
        monkeypatch.setattr(
            randomness, "_bits", lambda keys, count, e=extreme: torch.full((len(keys), count), e)
        )
        assert 0 < stream([0]).uniform(1).item() < 1
        assert stream([0]).integers(7, 1).item() == (0 if extreme == 0 else 6)
        assert stream([0]).normal(1).isfinite()


def test_integers_are_uniform():
    drawn = stream(["x"]).integers(4, 100_000)
    assert drawn.dtype == torch.int64
    counts = drawn.flatten().bincount(minlength=4)
    assert len(counts) == 4
    chi_square = ((counts - 25_000) ** 2 / 25_000).sum()
    assert chi_square < 16.3  # the 99.9% point with 3 degrees of freedom


def test_normal_is_standard_normal():
    """Five standard errors each; the keys are fixed, so it passes or fails for good."""
    z = stream(["x"]).normal(100_000)
    assert z.dtype == torch.float32 and z.shape == (1, 100_000)
    z = z[0].double()
    assert abs(z.mean()) < 0.016
    assert abs(z.var() - 1) < 0.023
    assert abs((z**3).mean()) < 0.062
    assert abs((z**4).mean() - 3) < 0.16
    grid = torch.linspace(-3, 3, 61).double()
    empirical = torch.searchsorted(z.sort().values, grid) / len(z)
    assert (empirical - torch.special.ndtr(grid)).abs().max() < 0.0062  # Kolmogorov-Smirnov


def test_numbers_are_not_correlated():
    """Neighbouring positions, keys and forks; 1e5 pairs, standard error 0.0032."""
    s = stream(range(1000))
    z = s.normal(101)
    assert abs((z[:, 1:] * z[:, :-1]).mean()) < 0.016
    assert abs((z[1:, :100] * z[:-1, :100]).mean()) < 0.016
    for fork in (s.fork(0), s.fork(1), s.fork(torch.tensor([25])), KeyedStream(s.keys + 1)):
        assert abs((z[:, :100] * fork.normal(100)).mean()) < 0.016


def test_key_of_tells_parts_apart():
    keys = [key_of("ab", "c"), key_of("a", "bc"), key_of("abc"), key_of("c", "ab"), key_of()]
    assert len(set(keys)) == len(keys)
    assert all(-(1 << 63) <= key < 1 << 63 for key in keys)


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_key_of_is_the_same_in_every_process(hash_seed):
    """Its source runs alone, since a fresh interpreter would import torch."""
    source = "import hashlib\n" + inspect.getsource(_signed) + inspect.getsource(key_of)
    made = subprocess.run(
        [sys.executable, "-c", f"{source}\nprint(key_of(3, 'noise', 'café', None))"],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(made.stdout) == key_of(3, "noise", "café", None)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler")
def test_compiled_draws_are_the_same():
    """Inductor fuses the hash with its conversion to float64 wrongly."""

    def draw(keys: torch.Tensor, t: torch.Tensor) -> list[torch.Tensor]:
        stream = KeyedStream(keys).fork(t).fork(3)
        return [stream.integers(4, 64), stream.normal(2, 33), stream.fork(1).uniform(100)]

    arguments = torch.tensor([5, -7, 2**61, -(2**62)]), torch.tensor([500] * 4)
    compiled = torch.compile(draw, dynamic=False, fullgraph=True)(*arguments)
    for ours, wanted in zip(compiled, draw(*arguments), strict=True):
        assert_close(ours, wanted)
