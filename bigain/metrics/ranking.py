"""How well ordering the classes by error ranks an image's labels, for multi-label data."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import ttest_rel

from bigain.metrics.accuracy import Z


@dataclass(frozen=True)
class Mean:
    """A mean over images with its 95% interval (normal approximation)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class MeanDifference(Mean):
    """The mean paired difference, with the p-value of the two-sided paired t-test."""

    p: float


def finalists_first(errors: ArrayLike, samples: ArrayLike) -> NDArray[np.int64]:
    """The classes of each image, best first: by number of timesteps tried, then by error.

    The errors of classes that were eliminated at different stages are means over different
    timesteps, so only the classes of one stage are compared with each other.

    Args:
        errors: the mean error of each class, [I, K].
        samples: the number of timesteps in each mean, [I, K].

    Returns:
        int64 [I, K]; classes with equal errors keep their order.
    """
    return np.lexsort((np.asarray(errors), -np.asarray(samples)), axis=-1)


def winner_first(errors: ArrayLike, predictions: ArrayLike) -> NDArray[np.int64]:
    """The published code's ranking: the predicted class, then all others by error.

    Their errors are means over different numbers of timesteps, so that classes which were
    eliminated early may come before the other finalists.

    Args:
        errors: the mean error of each class, [I, K].
        predictions: the class that won the last stage, [I].

    Returns:
        int64 [I, K]; classes with equal errors keep their order.
    """
    lowered = np.array(errors, dtype=np.float64)
    np.put_along_axis(lowered, np.asarray(predictions)[:, None], -np.inf, axis=-1)
    return np.argsort(lowered, axis=-1, kind="stable")


def average_precision(
    ranking: NDArray[np.int64], labels: Sequence[Sequence[int]]
) -> NDArray[np.float64]:
    """Each image's average precision over its ranking, float64 [I].

    Its mean over images is the label ranking average precision, which torchmetrics calls
    MultilabelRankingAveragePrecision.

    Args:
        ranking: the classes of each image, best first, [I, K].
        labels: the labels of each image, at least one.

    Raises:
        ValueError: if an image has no label.
    """
    found = np.empty(len(ranking))
    for i, (order, wanted) in enumerate(zip(ranking, labels, strict=True)):
        if not len(wanted):
            raise ValueError(f"image {i} has no label to rank")
        places = np.flatnonzero(np.isin(order, wanted)) + 1
        found[i] = (np.arange(1, len(places) + 1) / places).mean()
    return found


def mean(values: ArrayLike) -> Mean:
    """The mean of ``values`` [I] and its interval, which is NaN for a single value."""
    x = np.asarray(values, dtype=np.float64)
    half = Z * x.std(ddof=1) / np.sqrt(len(x)) if len(x) > 1 else float("nan")
    return Mean(float(x.mean()), float(x.mean() - half), float(x.mean() + half))


def mean_difference(values: ArrayLike, baseline: ArrayLike) -> MeanDifference:
    """``values`` minus ``baseline``, both [I] for the same images in the same order."""
    x, y = np.asarray(values, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    found = mean(x - y)
    p = 1.0 if np.array_equal(x, y) else float(ttest_rel(x, y).pvalue)
    return MeanDifference(found.value, found.low, found.high, p)
