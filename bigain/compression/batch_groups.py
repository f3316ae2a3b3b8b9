"""Which samples of a batch belong together, and batches that are never too small."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

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

    @classmethod
    def of(cls, group: Tensor, smallest: int = 1) -> "Groups":
        """A batch whose samples stand group by group.

        Args:
            group: int64 [B], the number of each sample's group, which rises from 0 by ones.
            smallest: U is at least that.
        """
        count = int(group[-1]) + 1
        many = max(count, smallest)
        numbers = torch.arange(many, device=group.device).clamp(max=count - 1)
        return cls(torch.searchsorted(group, numbers), group)


@dataclass(frozen=True)
class Cut:
    """The samples of one batch, out of a sequence of groups of equal size.

    Attributes:
        places: int64 [B], of its samples in the sequence.
        start: how many samples of its first group come before these.
        repeated: how many of them, at the start, belong to other batches as well, and are here for
            the plan that the others follow.
        together: its groups, each planned by the group's first sample; None if it is cut anywhere.
        most: how many groups a full batch has.
    """

    places: Tensor
    start: int = 0
    repeated: int = 0
    together: Groups | None = None
    most: int = 1

    def padded(self, smallest: int) -> "Cut":
        """The same with the first sample repeated at the end, up to ``smallest`` samples.

        It then has as many groups as a full batch, so that compiled models see one shape.
        """
        missing = smallest - len(self.places)
        if missing <= 0:
            return self
        places = torch.cat([self.places, self.places[:1].expand(missing)])
        together = self.together
        if together is not None:
            group = torch.cat([together.group, together.group[:1].expand(missing)])
            spare = together.first[:1].expand(max(self.most - len(together.first), 0))
            together = Groups(torch.cat([together.first, spare]), group)
        return Cut(places, self.start, self.repeated, together, self.most)


def full_batches(count: int, size: int, batch: int, device: torch.device) -> Iterator[Cut]:
    """Cut ``count`` groups of ``size`` samples each into full batches."""
    for start in range(0, count * size, batch):
        stop = min(start + batch, count * size)
        yield Cut(torch.arange(start, stop, device=device), start % size)


def whole_groups(count: int, size: int, batch: int, device: torch.device) -> Iterator[Cut]:
    """Cut ``count`` groups of ``size`` samples each into batches that can plan for whole groups.

    What is planned for a group then depends on its first sample alone, wherever batches end. If a
    group does not fit into a batch, its first sample is in all of its batches.

    Args:
        batch: the most samples in a batch, except that two are always allowed.
    """
    if size <= batch:
        step = batch // size * size
        for start in range(0, count * size, step):
            places = torch.arange(start, min(start + step, count * size), device=device)
            first = torch.arange(0, len(places), size, device=device)
            group = torch.arange(len(places), device=device) // size
            yield Cut(places, together=Groups(first, group), most=batch // size)
        return
    one = torch.zeros(1, dtype=torch.int64, device=device)
    for start in range(0, count * size, size):
        ends = [0, batch, *range(batch + max(batch - 1, 1), size, max(batch - 1, 1)), size]
        for low, high in pairwise(ends):
            places = torch.arange(start + low, start + high, device=device)
            repeated = 1 if low else 0
            if repeated:
                places = torch.cat([one + start, places])
            together = Groups(one, one.expand(len(places)))
            yield Cut(places, repeated=repeated, together=together)


def of_samples(args: tuple, kwargs: dict, samples: Tensor, batch: int) -> tuple[tuple, dict]:
    """The arguments of a call for some of its samples.

    Args:
        samples: int64 [S].
        batch: B; every tensor [B, ...] holds one row per sample.
    """

    def some(value: Any) -> Any:
        each = isinstance(value, Tensor) and value.ndim > 0 and len(value) == batch
        return value[samples] if each else value

    return tuple(map(some, args)), {name: some(value) for name, value in kwargs.items()}


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
