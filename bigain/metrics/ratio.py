"""The ratio of two times that were measured in turn."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Ratio(NamedTuple):
    """The median and the quartiles of the ratios of all rounds."""

    median: float
    low: float
    high: float


def ratio(over: Sequence[float], under: Sequence[float]) -> Ratio:
    """The ratio of ``over`` to ``under``, both the seconds of the same rounds."""
    low, middle, high = np.quantile(np.divide(over, under), [0.25, 0.5, 0.75])
    return Ratio(float(middle), float(low), float(high))
