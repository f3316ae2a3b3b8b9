"""Anchored compression: what a compressor loses is measured on one evaluation and given to others.

Not in the paper. It is a control variate: evaluations that differ little lose almost the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from bigain.compressors.base import Compressor, Plan, check_whole, plain_numbers
from bigain.compressors.tokens import TokenGrid
from bigain.utils.randomness import KeyedStream


@dataclass(frozen=True)
class Anchored(Compressor):
    """A compressor of self-attention whose loss is measured on anchors and made up for elsewhere.

    An anchor computes self-attention f without compression, and also with it, g. Its followers
    compute only g, and add what the anchor lost: g(x) + f(anchor) - g(anchor). They merge as their
    anchor does, so only anchors are matched. The anchor itself is exact.

    In classification, one class of each noisy image is the anchor of the others. Elsewhere, calls
    of the model are taken for the steps of a sampling run: every so many steps one is an anchor,
    and a call at the same or a higher timestep than the last, or with a batch of another shape,
    begins a new run.

    Args:
        compressor: what compresses; :class:`bigain.ToMe`, :class:`bigain.IEKVD` or any other.
        every: in generation, the number of steps from one anchor to the next; 1 makes every step an
            anchor, which saves nothing.

    Example:
        >>> import bigain
        >>> anchored = bigain.Anchored(bigain.ToMe(0.75, destinations="cycle"), every=3)
        >>> with bigain.compress(pipe, anchored):
        ...     image = pipe("a photo of a cat").images[0]
    """

    compressor: Compressor
    every: int = 3

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_whole("Anchored", "every", self.every, 1)
        if not isinstance(self.compressor, Compressor) or self.compressor.anchors is not None:
            raise ValueError(
                f"Anchored takes a compressor that is not anchored itself, got {self.compressor!r}"
            )

    @property
    def anchors(self) -> int:
        return self.every

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

    def suited(self, purpose: str, family: str) -> "Anchored":
        return Anchored(self.compressor.suited(purpose, family), self.every)

    def scheduled(self, timesteps: int) -> "Anchored":
        return Anchored(self.compressor.scheduled(timesteps), self.every)

    def plan(
        self,
        x: Tensor,
        grid: TokenGrid,
        t: Tensor | None = None,
        rng: KeyedStream | None = None,
        block: int = 0,
    ) -> Plan:
        return self.compressor.plan(x, grid, t, rng, block)


def anchor_share(steps: int, every: int) -> float:
    """The share of anchors among the steps of a sampling run."""
    return -(-steps // every) / steps


def class_share(timesteps: Sequence[int], classes: Sequence[int]) -> float:
    """The share of anchors among the evaluations of an image that is classified in stages.

    Args:
        timesteps: how many each stage adds.
        classes: how many are left at the beginning of each stage.
    """
    return sum(timesteps) / sum(t * k for t, k in zip(timesteps, classes, strict=True))
