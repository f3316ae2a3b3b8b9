"""Random numbers keyed by what they are for, never by when they are drawn.

The generator is counter-based: every number is a hash of (key, position). A sample therefore gets
the same numbers in any batch, order, shard or process, and on any device. The hash is SplitMix64
(Steele, Lea and Flood 2014).
"""

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.compiler import is_compiling

_GOLDEN = 0x9E3779B97F4A7C15
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


class KeyedStream:
    """A stream of random numbers for each sample of a batch.

    Args:
        keys: int64 [B]; samples with equal keys draw equal numbers.
    """

    def __init__(self, keys: Tensor) -> None:
        self.keys = keys

    @classmethod
    def of(
        cls, seed: int, purpose: str, ids: Sequence[object], device: torch.device | str = "cpu"
    ) -> "KeyedStream":
        """Streams keyed by (seed, purpose, id)."""
        return cls(torch.tensor([key_of(seed, purpose, i) for i in ids], device=device))

    def at(self, samples: Tensor) -> "KeyedStream":
        """The streams of these samples, int64 [S]."""
        return KeyedStream(self.keys[samples])

    def fork(self, label: int | Tensor) -> "KeyedStream":
        """Independent streams for the same samples; ``label`` is one int64 for all, or [B].

        A tensor is read as float64, so integer and floating-point timesteps give the same stream. A
        Python int gives a different stream than a tensor of the same value.
        """
        if isinstance(label, Tensor):
            label = label.to(torch.float64).view(torch.int64)
            return KeyedStream(_hash(_hash(self.keys) + label.to(self.keys.device)))
        return KeyedStream(_hash(_hash(self.keys) + _signed(label * _GOLDEN)))

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers in (0, 1), float64 [B, *shape]."""
        draw = _opaque_uniform if is_compiling() else _uniform
        return draw(self.keys, math.prod(shape)).view(len(self.keys), *shape)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Uniform integers in [0, high), int64 [B, *shape]."""
        return (self.uniform(*shape) * high).long()

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers, float32 [B, *shape] (Box and Muller 1958)."""
        u = self.uniform(2, *shape)
        return ((-2 * u[:, 0].log()).sqrt() * (2 * math.pi * u[:, 1]).cos()).float()


def key_of(*parts: object) -> int:
    """An int64 key made from any printable parts, the same in every process."""
    text = "\x1f".join(map(str, parts)).encode()
    return _signed(int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big"))


@torch.library.custom_op("bigain::uniform", mutates_args=())
def _opaque_uniform(keys: Tensor, count: int) -> Tensor:
    """`_uniform`, hidden from inductor, which fuses it wrongly on CPUs (torch 2.14.1)."""
    return _uniform(keys, count)


@_opaque_uniform.register_fake
def _(keys: Tensor, count: int) -> Tensor:
    return keys.new_empty(len(keys), count, dtype=torch.float64)


def _uniform(keys: Tensor, count: int) -> Tensor:
    """The first numbers of each key as fractions in (0, 1), float64 [B, count]."""
    u = (_shift(_bits(keys, count), 11).double() + 0.5) * 2.0**-53
    return u.clamp(max=1 - 2.0**-53)  # the largest of the 2**53 values would round up to 1


def _bits(keys: Tensor, count: int) -> Tensor:
    """The first 64-bit numbers of each key, int64 [B, count]."""
    counter = torch.arange(1, count + 1, device=keys.device)
    return _hash(keys.unsqueeze(1) + counter * _signed(_GOLDEN))


def _hash(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64."""
    x = (x ^ _shift(x, 30)) * _signed(_MIX[0])
    x = (x ^ _shift(x, 27)) * _signed(_MIX[1])
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    """The int64 with the same 64 bits as ``value``."""
    value %= 1 << 64
    return value - (1 << 64) if value >= 1 << 63 else value
