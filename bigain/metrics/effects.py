"""What one change does beside another, and how two measurements go together."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from bigain.metrics.accuracy import Z

RESAMPLES = 2000
SEED = 0


class Estimate(NamedTuple):
    """A value and its 95% interval."""

    value: float
    low: float
    high: float


def interaction(
    neither: ArrayLike, first: ArrayLike, second: ArrayLike, both: ArrayLike
) -> Estimate:
    """Points that two changes together give beyond the sum of what each gives alone.

    Args:
        neither, first, second, both: bool [n], whether each image is classified rightly under
            neither change, one of them, and both; the images in the same order.

    Returns:
        Negative if together they lose more than in sum; interval by the normal approximation.
    """
    columns = [np.asarray(x, dtype=float) for x in (neither, first, second, both)]
    each = 100 * (columns[3] - columns[1] - columns[2] + columns[0])
    half = Z * float(each.std(ddof=1)) / np.sqrt(len(each))
    value = float(each.mean())
    return Estimate(value, value - half, value + half)


def kept_above(correct: ArrayLike, baseline_correct: ArrayLike, chance: float) -> Estimate:
    """Accuracy above chance over the baseline's, its interval by a bootstrap over images.

    Args:
        correct, baseline_correct: bool [n], in the same order.
        chance: accuracy of guessing, in [0, 1).
    """
    ours, theirs = (np.asarray(x, dtype=float) for x in (correct, baseline_correct))

    def kept(i: NDArray) -> float:
        return float((ours[i].mean() - chance) / (theirs[i].mean() - chance))

    return _bootstrap(kept, len(ours))


def class_spread(trials: NDArray, plain: NDArray) -> Estimate:
    """What a method adds to the comparison of classes, over what there is to compare.

    A classifier compares errors e(c) of the classes of one noisy image. Under a method they change
    by d(c); what all classes share cancels, and the variance of d(c) - d(c') is left, of noise and
    of shifts that belong to a class alike. It is given as a share of the variance of e(c) - e(c')
    without the method, both over pairs of classes and the mean over images and noises.

    Args:
        trials, plain: float [I, K, S] with and without the method, of the same images and noises.

    Returns:
        The ratio, its interval by a bootstrap over images.
    """
    added = (trials - plain).var(axis=1, ddof=1).mean(-1)
    present = plain.var(axis=1, ddof=1).mean(-1)
    return _bootstrap(lambda i: added[i].mean() / present[i].mean(), len(added))


def correlation(x: ArrayLike, y: ArrayLike) -> Estimate:
    """Spearman's rank correlation, its interval by a bootstrap over the pairs."""
    pairs = np.stack([np.asarray(x, dtype=float), np.asarray(y, dtype=float)])

    def spearman(i: NDArray) -> float:
        a, b = (rankdata(side[i]) for side in pairs)
        if a.std() == 0 or b.std() == 0:  # a resample of equal values says nothing
            return float("nan")
        return float(np.corrcoef(a, b)[0, 1])

    return _bootstrap(spearman, pairs.shape[1])


def _bootstrap(statistic: Callable[[NDArray], float], n: int) -> Estimate:
    """Percentile interval of a statistic of n items."""
    generator = np.random.default_rng(SEED)
    found = [statistic(generator.integers(n, size=n)) for _ in range(RESAMPLES)]
    low, high = np.nanquantile(found, [0.025, 0.975])
    return Estimate(float(statistic(np.arange(n))), float(low), float(high))
