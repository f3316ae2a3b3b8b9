"""How many times as long one thing takes as another that was timed in turn with it."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Ratio(NamedTuple):
    """The median of the rounds' ratios, and their quartiles."""

    median: float
    low: float
    high: float


def ratio(over: Sequence[float], under: Sequence[float]) -> Ratio:
    """How many times as long as ``under`` took ``over``, seconds of the same rounds."""
    low, middle, high = np.quantile(np.divide(over, under), [0.25, 0.5, 0.75])
    return Ratio(float(middle), float(low), float(high))
