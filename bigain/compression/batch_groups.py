"""Which samples of a batch differ in their class alone."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Groups:
    """Samples of a batch that differ in their class alone.

    Attributes:
        first: int64 [U], one sample of each group; it may name the last group more than once.
        group: int64 [B], the group of each sample.
    """

    first: Tensor
    group: Tensor

    @classmethod
    def copies(cls, samples: int, times: int, device: torch.device) -> "Groups":
        """A batch in which the same ``samples`` follow one another, ``times`` times over."""
        every = torch.arange(samples, device=device)
        return cls(every, every.repeat(times))

    @classmethod
    def runs(cls, start: int, batch: int, size: int, device: torch.device) -> "Groups | None":
        """Samples start, start+1, ... of a sequence of groups of ``size`` each.

        U depends on ``batch`` and ``size`` alone, so that shapes stay the same from batch to batch.

        Returns:
            None if that shares nothing.
        """
        many = (batch - 2) // size + 2
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
        groups: of the samples of the next forward.
        attention: whether its self-attention, too, runs for one sample of each group.
    """

    module: nn.Module
    groups: Groups
    attention: bool
