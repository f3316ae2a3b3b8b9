"""The interface of metrics of generated images, which modules of this package implement.

To add a metric, write a subclass of `ImageMetric` in a module of its own, and add a line for it to
``evaluation.metrics`` in configs/config.yaml. For runs that have been scored before, only the new
metric is then computed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from torch import Tensor

from bigain.utils.setting_types import fits

if TYPE_CHECKING:
    from bigain.metrics.frechet import Moments


@dataclass(frozen=True)
class Generated:
    """What is known about N generated images; None for what is not needed or not available.

    Attributes:
        n: number of images.
        pooled: pooled features [N, D].
        spatial: features from the map of a middle layer, [N, S].
        logits: logits of a classifier, [N, K].
        prompt_scores: how well each image shows its prompt, float64 [N].
    """

    n: int
    pooled: Tensor | None = None
    spatial: Tensor | None = None
    logits: Tensor | None = None
    prompt_scores: np.ndarray | None = None


class Real(Protocol):
    """What is known about the real images with which generated ones are compared.

    Attributes:
        n: number of real images.
        pooled: moments of their pooled features.
        spatial: moments of their spatial features, or None if the network has none.
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
        label: its name in lines meant for people, or None to leave it out of them.
        table: whether CSV files contain it.
    """

    key: str
    label: str | None = None
    table: bool = True


@dataclass(frozen=True)
class MetricColumn:
    """A column of printed tables.

    Attributes:
        title: the column's title.
        key: key of the value to print.
        interval: keys of the value's bounds, if they are printed as well.
        format: format of numbers with an interval.
        features: whether the title names the feature network.
    """

    title: str
    key: str
    interval: tuple[str, str] | None = None
    format: str = ".2f"
    features: bool = False


@dataclass(frozen=True)
class ImageMetric:
    """A metric of generated images; the fields of a subclass are its settings.

    Each metric has its own record next to a run, keyed by its name, its version, the settings that
    differ from their defaults, and what it reads.

    Attributes:
        name: short and unique.
        version: to be raised whenever the same images would give different values.
        reads: the fields of `Generated` that it uses.
        compares: whether it uses real images.
        values: the values that it computes.
        columns: its columns in printed tables.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    reads: ClassVar[frozenset[str]] = frozenset({"pooled"})
    compares: ClassVar[bool] = True
    values: ClassVar[tuple[Value, ...]]
    columns: ClassVar[tuple[MetricColumn, ...]] = ()

    def needs(self, real: Real) -> Mapping[str, tuple[int, int | None]]:
        """The number of images that a sound value needs, and how many real images there are.

        Returns:
            Pairs by the name that messages use; the second number is None for metrics that use no
            real images.
        """
        return {}

    def compute(self, generated: Generated, real: Real, seed: int) -> dict[str, Any]:
        """A plain JSON value for each of ``values``, or None where the images do not allow one."""
        raise NotImplementedError

    @classmethod
    def nothing(cls) -> dict[str, Any]:
        """None for each of ``values``."""
        return {value.key: None for value in cls.values}


MOST = 1_000_000  # of any setting that counts


def check_whole(metric: ImageMetric, least: Mapping[str, int]) -> None:
    """Refuse settings that are not whole numbers of at least ``least``.

    Raises:
        ValueError: if one is not; the message names the metric and the setting.
    """
    for name, low in least.items():
        value = getattr(metric, name)
        if not fits(value, int) or value < low:
            raise ValueError(f"{metric.name}: {name} must be an integer from {low}, got {value!r}")
        if value > MOST:
            raise ValueError(
                f"{metric.name}: {name} must be at most {MOST}, as memory and time grow with it; "
                f"got {value}"
            )
