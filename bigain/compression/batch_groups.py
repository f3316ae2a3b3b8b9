"""Which cells of a batch differ in their class alone."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Groups:
    """Cells of a batch that differ in their class alone.

    Attributes:
        first: int64 [U], a cell of each group; it may name the last group more than once.
        group: int64 [B], the group of each cell.
    """

    first: Tensor
    group: Tensor

    @classmethod
    def copies(cls, samples: int, times: int, device: torch.device) -> "Groups":
        """A batch of ``samples``, one after another, that comes ``times`` times over."""
        every = torch.arange(samples, device=device)
        return cls(every, every.repeat(times))

    @classmethod
    def runs(cls, start: int, batch: int, size: int, device: torch.device) -> "Groups | None":
        """Cells start, start+1, ... of a row of groups of ``size`` each.

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
