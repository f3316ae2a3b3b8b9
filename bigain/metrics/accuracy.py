"""Top-1 accuracy with its interval, and the paired comparison of two classifiers."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest

CONFIDENCE = 0.95
Z = 1.96  # half the width of such an interval for a normal distribution, in standard deviations


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracy.

    Attributes:
        n: number of images.
        correct: number of images whose prediction is among their labels.
        value: the accuracy, in [0, 1].
        low, high: its 95% interval (Wilson 1927).
    """

    n: int
    correct: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Paired:
    """A classifier compared with a baseline on the same images.

    Attributes:
        wins: number of images that only the classifier gets right.
        losses: number of images that only the baseline gets right.
        difference: accuracy of the classifier minus that of the baseline, in points.
        low, high: 95% interval of the difference, in points.
        p: p-value of the two-sided exact McNemar test of equal accuracy; 1 if the two never differ.
    """

    wins: int
    losses: int
    difference: float
    low: float
    high: float
    p: float


def hits(predictions: Iterable[int], labels: Iterable[Iterable[int]]) -> NDArray[np.bool_]:
    """Whether each image's prediction is among its labels, bool [n].

    Raises:
        ValueError: if the arguments have different lengths.
    """
    pairs = zip(predictions, labels, strict=True)
    return np.fromiter((p in wanted for p, wanted in pairs), dtype=bool)


def top1(correct: ArrayLike) -> Accuracy:
    """The accuracy of a classifier, given whether it is ``correct`` on each image, bool [n].

    Raises:
        ValueError: if ``correct`` is empty or not bool.
    """
    found = np.asarray(correct)
    if found.ndim != 1 or found.dtype != bool or not len(found):
        raise ValueError(
            f"expected a list of bool, at least one image; got {found.dtype} {list(found.shape)}"
        )
    n, right = len(found), int(found.sum())
    low, high = _wilson(right, n)
    return Accuracy(n, right, right / n, low, high)


def paired(correct: ArrayLike, baseline_correct: ArrayLike) -> Paired:
    """Compare two classifiers image by image.

    The interval is Newcombe's square-and-add (Statistics in Medicine 17:2635-2650, 1998, method
    10). It is built from the same Wilson intervals that the table prints for each accuracy, and it
    stays within [-100, 100]. Unlike Wald's interval, it keeps a width even if the two never differ.
    Fagerland, Lydersen and Laake (Statistics in Medicine 33:2850-2875, 2014) recommend it.

    Args:
        correct: bool [n], whether each image is classified correctly.
        baseline_correct: bool [n], the same for the baseline, in the same order.

    Raises:
        ValueError: if the two are empty, of different lengths or not bool.
    """
    ours, theirs = np.asarray(correct), np.asarray(baseline_correct)
    if ours.ndim != 1 or ours.shape != theirs.shape or not len(ours):
        raise ValueError(
            "correct and baseline_correct must be two lists of one length, at least one image; "
            f"got shapes {list(ours.shape)} and {list(theirs.shape)}"
        )
    if ours.dtype != bool or theirs.dtype != bool:
        raise ValueError(f"expected two lists of bool, got {ours.dtype} and {theirs.dtype}")
    n = len(ours)
    both, neither = int((ours & theirs).sum()), int((~ours & ~theirs).sum())
    wins, losses = int((ours & ~theirs).sum()), int((~ours & theirs).sum())
    low, high = _newcombe(both, wins, losses, neither)
    p = binomtest(wins, wins + losses, 0.5).pvalue if wins + losses else 1.0
    return Paired(wins, losses, 100 * (wins - losses) / n, 100 * low, 100 * high, float(p))


def _wilson(correct: int, n: int) -> tuple[float, float]:
    interval = binomtest(correct, n).proportion_ci(CONFIDENCE, method="wilson")
    return float(interval.low), float(interval.high)


def _newcombe(both: int, wins: int, losses: int, neither: int) -> tuple[float, float]:
    """The interval of the difference of paired proportions; Newcombe (1998), method 10."""
    n = both + wins + losses + neither
    p1, p2 = (both + wins) / n, (both + losses) / n
    low1, high1 = _wilson(both + wins, n)
    low2, high2 = _wilson(both + losses, n)
    margins = (both + wins) * (losses + neither) * (both + losses) * (wins + neither)
    excess: float = both * neither - wins * losses
    if excess > 0:  # Newcombe's continuity correction
        excess = max(excess - n / 2, 0)
    phi = excess / math.sqrt(margins) if margins else 0.0

    def distance(a: float, b: float) -> float:
        # with a perfect correlation, rounding may give a value just below zero
        return math.sqrt(max(a * a - 2 * phi * a * b + b * b, 0.0))

    difference = (wins - losses) / n
    return (
        difference - distance(p1 - low1, high2 - p2),
        difference + distance(high1 - p1, p2 - low2),
    )
