"""How the effects of two changes interact, and how two measurements correlate."""

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
    """The effect in points of two changes together, minus the sum of their separate effects.

    Args:
        neither, first, second, both: bool [n], whether each image is classified correctly under
            neither change, one of them, and both, with the images in the same order.

    Returns:
        The interaction, which is negative if the changes together lose more than the sum of their
        separate losses, with an interval by the normal approximation.
    """
    columns = [np.asarray(x, dtype=float) for x in (neither, first, second, both)]
    each = 100 * (columns[3] - columns[1] - columns[2] + columns[0])
    half = Z * float(each.std(ddof=1)) / np.sqrt(len(each))
    value = float(each.mean())
    return Estimate(value, value - half, value + half)


def kept_above(correct: ArrayLike, baseline_correct: ArrayLike, chance: float) -> Estimate:
    """Accuracy above chance as a share of the baseline's, with a bootstrap interval over images.

    Args:
        correct, baseline_correct: bool [n], in the same order.
        chance: the accuracy of guessing, in [0, 1).
    """
    ours, theirs = (np.asarray(x, dtype=float) for x in (correct, baseline_correct))

    def kept(i: NDArray) -> float:
        return float((ours[i].mean() - chance) / (theirs[i].mean() - chance))

    return _bootstrap(kept, len(ours))


def class_spread(trials: NDArray, plain: NDArray) -> Estimate:
    """The disturbance that a method adds to the comparison of classes, relative to the signal.

    A classifier compares the errors e(c) of the classes for one noisy image. A method changes them
    by d(c). Whatever all classes share cancels, and what remains is the variance of d(c) - d(c'),
    which comes from noise as well as from shifts specific to a class. It is given as a share of the
    variance of e(c) - e(c') without the method. Both variances are over pairs of classes, averaged
    over images and noises.

    Args:
        trials, plain: float [I, K, S], the trials of the same images and noises with and without
            the method.

    Returns:
        The ratio, with a bootstrap interval over images.
    """
    added = (trials - plain).var(axis=1, ddof=1).mean(-1)
    present = plain.var(axis=1, ddof=1).mean(-1)
    return _bootstrap(lambda i: added[i].mean() / present[i].mean(), len(added))


def correlation(x: ArrayLike, y: ArrayLike) -> Estimate:
    """Spearman's rank correlation, with a bootstrap interval over the pairs."""
    pairs = np.stack([np.asarray(x, dtype=float), np.asarray(y, dtype=float)])

    def spearman(i: NDArray) -> float:
        a, b = (rankdata(side[i]) for side in pairs)
        if a.std() == 0 or b.std() == 0:  # undefined for a resample of equal values
            return float("nan")
        return float(np.corrcoef(a, b)[0, 1])

    return _bootstrap(spearman, pairs.shape[1])


def _bootstrap(statistic: Callable[[NDArray], float], n: int) -> Estimate:
    """A statistic of n items with its percentile interval."""
    generator = np.random.default_rng(SEED)
    found = [statistic(generator.integers(n, size=n)) for _ in range(RESAMPLES)]
    low, high = np.nanquantile(found, [0.025, 0.975])
    return Estimate(float(statistic(np.arange(n))), float(low), float(high))
