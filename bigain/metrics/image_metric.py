"""What a metric of generated images is; each module of this package may define some.

To add one, write a subclass of `ImageMetric` in a module of its own, and name it in a line of
``evaluation.metrics`` in configs/config.yaml. Runs that have been scored are then scored by the new
metric alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from bigain.metrics.frechet import Moments


@dataclass(frozen=True)
class Generated:
    """What is known of N generated images; None for what no metric asked for or nothing gives.

    Attributes:
        n: how many there are.
        pooled: features [N, D].
        spatial: features of a middle layer's map [N, S].
        logits: of a classifier, [N, K].
        prompt_scores: how well each image shows its prompt, float64 [N].
    """

    n: int
    pooled: Tensor | None = None
    spatial: Tensor | None = None
    logits: Tensor | None = None
    prompt_scores: np.ndarray | None = None


class Real(Protocol):
    """What is known of the real images that generated ones are compared with.

    Attributes:
        pooled: moments of their pooled features.
        spatial: moments of their spatial features; None if the network gives none.
        features: pooled features of some or all of them, [M, D].
    """

    @property
    def n(self) -> int: ...
    @property
    def pooled(self) -> "Moments": ...
    @property
    def spatial(self) -> "Moments | None": ...
    @property
    def features(self) -> Tensor: ...


@dataclass(frozen=True)
class Value:
    """One of the values that a metric computes.

    Attributes:
        key: its name in records and in CSV files.
        label: how lines for people call it; None leaves it out of them.
        table: whether CSV files hold it.
    """

    key: str
    label: str | None = None
    table: bool = True


@dataclass(frozen=True)
class MetricColumn:
    """A column of printed tables.

    Attributes:
        key: of the value it prints.
        interval: keys of the value's bounds, if it prints them, too.
        format: of numbers with an interval.
        features: whether the title names the features.
    """

    title: str
    key: str
    interval: tuple[str, str] | None = None
    format: str = ".2f"
    features: bool = False


@dataclass(frozen=True)
class ImageMetric:
    """A metric of generated images; the fields of a subclass are its settings.

    Each has a record of its own beside a run, keyed by its name, its version, the settings that
    differ from their defaults, and what it reads.

    Attributes:
        name: short and unique.
        version: raised when the same images start to give other values.
        reads: the fields of `Generated` that it uses.
        compares: whether it looks at real images.
        values: what it computes.
        columns: of printed tables.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    reads: ClassVar[frozenset[str]] = frozenset({"pooled"})
    compares: ClassVar[bool] = True
    values: ClassVar[tuple[Value, ...]]
    columns: ClassVar[tuple[MetricColumn, ...]] = ()

    def needs(self, real: Real) -> Mapping[str, tuple[int, int | None]]:
        """The fewest images it is sound with, and the real images there are to meet that.

        Returns:
            By what errors call it; None for the second if it does not look at real images.
        """
        return {}

    def compute(self, generated: Generated, real: Real, seed: int) -> dict[str, Any]:
        """A plain JSON value for each of ``values``; None for what the images cannot give."""
        raise NotImplementedError

    @classmethod
    def nothing(cls) -> dict[str, Any]:
        """None for each of ``values``."""
        return {value.key: None for value in cls.values}


def check_whole(metric: ImageMetric, least: Mapping[str, int]) -> None:
    """Refuse settings that are not whole numbers of at least ``least``.

    Raises:
        ValueError: naming the metric and the setting.
    """
    for name, low in least.items():
        value = getattr(metric, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ValueError(f"{metric.name}: {name} must be an integer from {low}, got {value!r}")
