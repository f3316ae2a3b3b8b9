"""What a task needs from a data set."""

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from bigain.errors import BiGainError


@dataclass(frozen=True)
class Example:
    """One labelled image.

    Attributes:
        id: an id that is unique in the data set and the same on every machine.
        image: float32 [C, H, W] in [-1, 1].
        labels: ascending indices into the data set's classes; a single one for single-label data.
    """

    id: str
    image: Tensor
    labels: tuple[int, ...]


class Dataset(Protocol):
    """Labelled images in a fixed order.

    Attributes:
        classes: the names of the classes, in the order of the labels.
        prompts: one per class, for text-conditional models.
        class_ids: each class's index among those that a class-conditional model was trained on
            (ImageNet's), or None for data that no such model knows.
        known_classes: the number of classes that such a model knows in all (1,000 for ImageNet), or
            None likewise.
    """

    classes: list[str]
    prompts: list[str]
    class_ids: list[int] | None
    known_classes: int | None

    def __len__(self) -> int: ...

    def ids(self) -> list[str]:
        """The ids of all images in order, without decoding any."""

    def __getitem__(self, index: int) -> Example: ...

    def labels(self, index: int) -> tuple[int, ...]:
        """The classes of an image, without decoding it; empty if nothing is annotated."""

    def prompt(self, index: int) -> str:
        """The text to generate from in place of this image: its class's prompt or its caption."""

    def listing(self) -> list[str] | None:
        """The chosen files, relative to the data set, if a rule chose only some; else None."""

    def identity(self) -> dict[str, Any]:
        """What identifies the data in a run's fingerprint: name, split and checksums, no path."""


def labelled(dataset: Dataset) -> list[str]:
    """The ids of the images that have a label, in order.

    An image without labels, of which COCO has some, has no correct answer.
    """
    return [i for n, i in enumerate(dataset.ids()) if dataset.labels(n)]


def select(ids: list[str], limit: int | None) -> list[str]:
    """The first ``limit`` ids, or all if it is None.

    Raises:
        BiGainError: if the data set has fewer images, or ``limit`` is not positive.
    """
    if limit is None:
        return ids
    if not 1 <= limit <= len(ids):
        raise BiGainError(f"limit must lie in 1..{len(ids)}, the number of images; got {limit}")
    return ids[:limit]
