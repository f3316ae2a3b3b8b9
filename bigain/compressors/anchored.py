"""Anchored compression: what a compressor loses is measured on one evaluation and given to others.

Not in the paper. It is a control variate: evaluations that differ little lose almost the same.
"""

from dataclasses import dataclass

from bigain.compressors.base import Compressor, Wrapper, plain_numbers
from bigain.utils.setting_types import check_whole


@dataclass(frozen=True)
class Anchored(Wrapper):
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

    every: int = 3

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_whole("Anchored", "every", self.every, 1)
        if not isinstance(self.compressor, Compressor) or self.compressor.anchor_every:
            raise ValueError(
                f"Anchored takes a compressor that is not anchored itself, got {self.compressor!r}"
            )

    @property
    def anchor_every(self) -> int:
        return self.every
