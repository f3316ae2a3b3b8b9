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
        labels: indices into the data set's classes, rising; one for single-label data.
    """

    id: str
    image: Tensor
    labels: tuple[int, ...]


class Dataset(Protocol):
    """Labelled images in a fixed order.

    Attributes:
        classes: names, in the order of the labels.
        prompts: one a class, for text-conditional models.
        class_ids: each class's index among those that a class-conditional model was trained on
            (ImageNet's); None for data that no such model knows.
        known_classes: how many such a model knows in all, 1,000 for ImageNet; None likewise.
    """

    classes: list[str]
    prompts: list[str]
    class_ids: list[int] | None
    known_classes: int | None

    def __len__(self) -> int: ...

    def ids(self) -> list[str]:
        """Every image's id in order, without decoding one."""

    def __getitem__(self, index: int) -> Example: ...

    def labels(self, index: int) -> tuple[int, ...]:
        """An image's classes, without decoding it; none where nothing is annotated."""

    def prompt(self, index: int) -> str:
        """What to draw in this image's place: its class's prompt, or its own caption."""

    def listing(self) -> list[str] | None:
        """The chosen files, relative to the data set, where a rule chose some; else None."""

    def identity(self) -> dict[str, Any]:
        """What names the data in a run's fingerprint: name, split, checksums; never a path."""


def labelled(dataset: Dataset) -> list[str]:
    """The images with a label, in order: one without, as some of COCO's, has no right answer."""
    return [i for n, i in enumerate(dataset.ids()) if dataset.labels(n)]


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
