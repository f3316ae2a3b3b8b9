"""What a task needs of a data set."""

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from bigain.errors import BiGainError


@dataclass(frozen=True)
class Example:
    """One labelled image.

    Attributes:
        id: unique in the data set, and the same on every machine.
        image: float32 [C, H, W] in [-1, 1].
        label: index into the data set's classes.
    """

    id: str
    image: Tensor
    label: int


class Dataset(Protocol):
    """Labelled images in a fixed order.

    Attributes:
        classes: names, in the order of the labels.
        prompts: one a class, for text-conditional models.
    """

    classes: list[str]
    prompts: list[str]

    def __len__(self) -> int: ...

    def ids(self) -> list[str]:
        """Every image's id in order, without decoding one."""

    def __getitem__(self, index: int) -> Example: ...

    def label(self, index: int) -> int:
        """An image's class, without decoding it."""

    def identity(self) -> dict[str, Any]:
        """What names the data in a run's fingerprint: name, split, checksums; never a path."""


def select(ids: list[str], limit: int | None) -> list[str]:
    """The first ``limit`` ids, or all.

    Raises:
        BiGainError: if the data set has fewer, or ``limit`` is not positive.
    """
    if limit is None:
        return ids
    if not 1 <= limit <= len(ids):
        raise BiGainError(f"limit must lie in 1..{len(ids)}, the images there are; got {limit}")
    return ids[:limit]
