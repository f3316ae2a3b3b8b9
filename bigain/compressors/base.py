"""What a compressor is and what it returns."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from bigain.compressors.tokens import TokenGrid, TokenMap
from bigain.utils.randomness import KeyedStream
from bigain.utils.setting_types import check_whole, fits


@dataclass(frozen=True)
class Plan:
    """How one block's attention is compressed.

    Attributes:
        queries: the map that shortens the sequence, or None to keep it at full length.
        keys_values: a map, or another function [B, N, C] -> [B, M, C], for keys and values only; or
            None to take them from the queries' tokens.
        key_tokens: if ``keys_values`` is a function, int64 [M] or [B or 1, M], the token at whose
            position each of its keys lies. Only models with rotary positions (Flux) read it.
    """

    queries: TokenMap | None = None
    keys_values: Callable[[Tensor], Tensor] | None = None
    key_tokens: Tensor | None = None

    def at(self, samples: Tensor) -> "Plan":
        """The plan for these samples, int64 [S], in this order; samples may repeat."""
        queries, keys = self.queries, self.keys_values
        assert keys is None or isinstance(keys, TokenMap)  # as `for_any_samples` says
        return Plan(queries and queries.at(samples), keys and keys.at(samples))

    @property
    def for_any_samples(self) -> bool:
        """Whether the plan consists of maps, so that `at` can hand it on to other samples."""
        return self.keys_values is None or isinstance(self.keys_values, TokenMap)

    @property
    def attended(self) -> TokenMap | None:
        """The map whose slots are the keys, or None if the keys are made in another way."""
        found = self.queries if self.keys_values is None else self.keys_values
        return found if isinstance(found, TokenMap) else None


class Compressor:
    """The base of every method: it takes tensors, returns a :class:`Plan`, and keeps no state.

    Attributes:
        shortens: the fields of Plan that ``plan`` fills.
        reuse: whether the first block's plan also serves the later blocks of the same forward.
        paired: whether all classes of one noisy image get the same random draws.
        content_dependent: whether the plan depends on the tokens themselves.
        anchor_every: for `bigain.Anchored`, the number of sampling steps from one anchor to the
            next; None for all others.
    """

    @property
    def shortens(self) -> frozenset[str]:
        raise NotImplementedError

    @property
    def reuse(self) -> bool:
        return False

    @property
    def paired(self) -> bool:
        return True

    @property
    def content_dependent(self) -> bool:
        return True

    @property
    def anchor_every(self) -> int | None:
        return None

    def suited(self, purpose: str, family: str) -> "Compressor":
        """The compressor with every setting that depends on the task and the model filled in.

        Args:
            purpose: "classification" or "generation".
            family: of the denoiser, as `bigain.backbones.Backbone.family` says.
        """
        return self

    def scheduled(self, timesteps: int) -> "Compressor":
        """The compressor for a model whose noise schedule has this many timesteps."""
        return self

    def plan(
        self,
        x: Tensor,
        grid: TokenGrid,
        t: Tensor | None = None,
        rng: KeyedStream | None = None,
        block: int = 0,
    ) -> Plan:
        """Decide what to do with a block's tokens.

        Args:
            x: the tokens that decide, [B, N, C]: the block's input before normalisation, or that of
                its self-attention (``decide_on`` of :func:`bigain.compress`).
            grid: the grid on which the N tokens lie.
            t: the diffusion timestep of each sample, [B]. Only alpha schedules read it.
            rng: keyed random numbers. Only random methods read them. None means seed 0 and the
                same draw for every sample.
            block: the position of the block among the compressed ones, in forward order. Only
                methods that vary with depth read it.

        Raises:
            ValueError: if ``x`` does not fit ``grid``, or the method cannot handle this grid.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Wrapper(Compressor):
    """A compressor that decides as another one does, and uses the plan in a way of its own.

    Args:
        compressor: the other one.
    """

    compressor: Compressor

    @property
    def shortens(self) -> frozenset[str]:
        return self.compressor.shortens

    @property
    def reuse(self) -> bool:
        return self.compressor.reuse

    @property
    def paired(self) -> bool:
        return self.compressor.paired

    @property
    def content_dependent(self) -> bool:
        return self.compressor.content_dependent

    def suited(self, purpose: str, family: str) -> "Wrapper":
        return dataclasses.replace(self, compressor=self.compressor.suited(purpose, family))

    def scheduled(self, timesteps: int) -> "Wrapper":
        return dataclasses.replace(self, compressor=self.compressor.scheduled(timesteps))

    def plan(
        self,
        x: Tensor,
        grid: TokenGrid,
        t: Tensor | None = None,
        rng: KeyedStream | None = None,
        block: int = 0,
    ) -> Plan:
        return self.compressor.plan(x, grid, t, rng, block)


def keyed(rng: KeyedStream | None, x: Tensor) -> KeyedStream:
    """``rng``, or for None a stream with seed 0 and the same draw for every sample."""
    if rng is None:
        return KeyedStream(torch.zeros(1, dtype=torch.int64, device=x.device))
    return rng


def strength(default: Any) -> Any:
    """The field of a dataclass that says how much to compress, with its default.

    Unlike other fields, it is part of a run's identity even at its default.
    """
    return dataclasses.field(default=default, metadata={"always_identity": True})


def plain_numbers(compressor: Any) -> None:
    """Turn the NumPy numbers among a dataclass's fields into Python's: float32 0.7 into 0.7."""
    for field in dataclasses.fields(compressor):
        value = getattr(compressor, field.name)
        if isinstance(value, Real) and hasattr(value, "dtype"):
            kind = int if isinstance(value, Integral) else float
            object.__setattr__(compressor, field.name, kind(str(value)))


def check_ratio(name: str, ratio: float, stride: int) -> None:
    """Refuse a ratio that leaves less than one token per cell, and a stride below 2."""
    check_whole(name, "stride", stride, 2)
    most = 1 - 1 / stride**2
    if not fits(ratio, float) or not 0 <= ratio <= most:
        raise ValueError(
            f"{name}: ratio must lie in [0, {most:.4g}] at stride {stride} "
            f"(one token per {stride}x{stride} cell stays), got {ratio!r}"
        )
