"""What a compressor is and what it returns."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bigain.compressors.tokens import TokenGrid, TokenMap
from bigain.utils.randomness import KeyedStream


@dataclass(frozen=True)
class Plan:
    """How one block's attention is compressed.

    Attributes:
        queries: the map that shortens the sequence, or None to leave it whole.
        keys_values: [B, N, C] -> [B, M, C] for keys and values alone, or None.
    """

    queries: TokenMap | None = None
    keys_values: Callable[[Tensor], Tensor] | None = None


class Compressor:
    """Base of every method: tensors in, a :class:`Plan` out, no state.

    Attributes:
        shortens: the fields of Plan that ``plan`` fills.
        reuse: whether the plan of the first block serves the later ones of the same forward.
        paired: whether all classes of one noisy image get the same random draws.
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

    def suited(self, purpose: str) -> "Compressor":
        """The compressor with what is left to the task filled in.

        Args:
            purpose: "classification" or "generation".
        """
        return self

    def plan(
        self, x: Tensor, grid: TokenGrid, t: Tensor | None = None, rng: KeyedStream | None = None
    ) -> Plan:
        """Decide what to do with a block's tokens.

        Args:
            x: the block's input before its norm, [B, N, C].
            grid: where the N tokens lie.
            t: diffusion timestep of each sample, [B]; only alpha schedules read it.
            rng: keyed draws; only random methods read it. None stands for seed 0 and gives every
                sample the same draw.

        Raises:
            ValueError: if ``x`` does not lie on ``grid``, or the method cannot work on it.
        """
        raise NotImplementedError


def keyed(rng: KeyedStream | None, x: Tensor) -> KeyedStream:
    """``rng``, or the stream that stands for None: seed 0, the same draw for every sample."""
    if rng is None:
        return KeyedStream(torch.zeros(1, dtype=torch.int64, device=x.device))
    return rng


def check_ratio(name: str, ratio: float, stride: int) -> None:
    """Refuse a ratio that leaves less than one token a cell, and a stride below 2."""
    check_whole(name, "stride", stride, 2)
    most = 1 - 1 / stride**2
    if not isinstance(ratio, int | float) or not 0 <= ratio <= most:
        raise ValueError(
            f"{name}: ratio must lie in [0, {most:.4g}] at stride {stride} "
            f"(one token of each {stride}x{stride} cell stays), got {ratio!r}"
        )


def check_number(name: str, field: str, value: object) -> None:
    """Refuse what is not a number."""
    if not isinstance(value, int | float):
        raise ValueError(f"{name}: {field} must be a number, got {value!r}")


def check_whole(name: str, field: str, value: object, least: int) -> None:
    """Refuse what is not a whole number of at least ``least``."""
    if not isinstance(value, int) or value < least:
        raise ValueError(
            f"{name}: {field} must be a whole number of at least {least}, got {value!r}"
        )


def check_choice(name: str, field: str, value: object, accepted: tuple[str, ...]) -> None:
    """Refuse a value outside ``accepted``."""
    if value not in accepted:
        raise ValueError(f"{name}: {field} must be one of {', '.join(accepted)}; got {value!r}")
