"""Tokens that merging leaves alone, chosen by their score."""

from dataclasses import dataclass

from torch import Tensor

from bigain.compressors.base import plain_numbers
from bigain.utils.setting_types import check_choice, check_number

ORDERS = ("highest", "lowest", "lowest_first", "highest_first")


@dataclass(frozen=True)
class Protect:
    """A share of the tokens that neither merge nor have others merged into them.

    The published code has it as an option beside L-GTM.

    Args:
        share: of the tokens, in [0, 1).
        tokens: those with the "highest" or the "lowest" score; "lowest_first" moves with the
            timestep, from the lowest scores at t = timesteps to the highest at t = 0, and
            "highest_first" the other way round.
        timesteps: T, the length of the model's noise schedule; `Compressor.scheduled` sets it.
    """

    share: float
    tokens: str = "highest"
    timesteps: int = 1000

    def __post_init__(self) -> None:
        plain_numbers(self)
        check_number("Protect", "share", self.share)
        if not 0 <= self.share < 1:
            raise ValueError(f"Protect: share must lie in [0, 1), got {self.share!r}")
        check_choice("Protect", "tokens", self.tokens, ORDERS)

    def count(self, tokens: int) -> int:
        """How many of so many tokens are protected."""
        return int(self.share * tokens)

    def mask(self, scores: Tensor, t: Tensor | None) -> Tensor:
        """The protected tokens, bool [B, N].

        Args:
            scores: [B, N].
            t: the timestep of each sample, [B]; only orders that move with it read it.

        Raises:
            ValueError: if such an order is not given the timesteps.
        """
        tokens = scores.shape[1]
        count = self.count(tokens)
        place = scores.argsort(dim=1, stable=True).argsort(dim=1)  # 0 for the lowest
        if self.tokens == "highest":
            return place >= tokens - count
        if self.tokens == "lowest":
            return place < count
        if t is None:
            raise ValueError(
                f"Protect: tokens={self.tokens} needs each sample's timestep t, got None"
            )
        passed = (t.to(scores.device).float() / self.timesteps).clamp(0, 1)
        if self.tokens == "lowest_first":
            passed = 1 - passed
        start = ((tokens - count) * passed).long().unsqueeze(1)
        return (place >= start) & (place < start + count)
