"""Which samples of a batch belong together, and batches that are never too small."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Groups:
    """Groups of samples in a batch that differ only in their class.

    Attributes:
        first: int64 [U], one sample of each group; the last group may occur more than once.
        group: int64 [B], the group of each sample.
    """

    first: Tensor
    group: Tensor

    @classmethod
    def copies(cls, samples: int, times: int, device: torch.device) -> "Groups":
        """A batch that repeats the same ``samples``, in order, ``times`` times."""
        every = torch.arange(samples, device=device)
        return cls(every, every.repeat(times))

    @classmethod
    def runs(
        cls, start: int, batch: int, size: int, device: torch.device, smallest: int = 1
    ) -> "Groups | None":
        """A batch that starts at sample ``start`` of a sequence of groups of ``size`` each.

        U depends on neither ``start`` nor the samples, so that shapes stay the same from batch to
        batch. It is at least ``smallest``.

        Returns:
            The groups, or None if no work can be shared.
        """
        many = max((batch - 2) // size + 2, smallest)
        if size < 2 or many >= batch:
            return None
        offset = start % size
        group = (torch.arange(batch, device=device) + offset) // size
        first = torch.arange(many, device=device) * size - offset
        return cls(first.clamp(0, batch - 1), group)


@dataclass(frozen=True)
class SharedBlock:
    """A block whose input is the same for all samples of a group.

    Attributes:
        module: the block.
        groups: the groups of samples in the next forward.
        attention: whether self-attention, too, runs for only one sample of each group.
    """

    module: nn.Module
    groups: Groups
    attention: bool


def padded(count: int, smallest: int) -> list[int]:
    """The places of ``count`` samples in a batch of at least ``smallest``, which repeats the last.

    The caller drops what the model makes of the samples past ``count``.
    """
    return [min(i, count - 1) for i in range(max(count, smallest))]
