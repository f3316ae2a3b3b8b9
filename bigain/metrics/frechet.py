"""Fréchet distance of Gaussians fitted to features (FID, Heusel et al. 2017, arXiv 1706.08500).

For n generated images, FID is biased upwards roughly in proportion to 1/n (Chong and Forsyth 2020),
so compare it only at equal n. Intervals show the spread over samples of this n and do not correct
the bias.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh, eigvalsh
from torch import Tensor

from bigain.metrics.accuracy import Z
from bigain.metrics.image_metric import (
    Generated,
    ImageMetric,
    MetricColumn,
    Real,
    Value,
    check_whole,
)
from bigain.utils.randomness import KeyedStream

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of features.

    Attributes:
        n: number of images.
        mean: float64 [D].
        covariance: float64 [D, D], unbiased.
    """

    n: int
    mean: Array
    covariance: Array

    @classmethod
    def of(cls, features: Tensor | NDArray[np.floating]) -> "Moments":
        """The moments of features [N, D].

        Raises:
            ValueError: if there are fewer than two images.
        """
        x = np.asarray(features, np.float64)
        if x.ndim != 2 or len(x) < 2:
            raise ValueError(f"a covariance needs [N, D] features with N >= 2, got {x.shape}")
        mean = x.mean(0)
        centred = x - mean
        return cls(len(x), mean, centred.T @ centred / (len(x) - 1))

    @cached_property
    def root(self) -> Array:
        """The covariance's symmetric square root, kept because for D = 2048 it takes seconds."""
        values, vectors = eigh(self.covariance)
        return (vectors * np.sqrt(values.clip(min=0))) @ vectors.T


def frechet_distance(a: Moments, b: Moments) -> float:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)), at least 0.

    tr (A B)^(1/2) is the sum of the square roots of the eigenvalues of B^(1/2) A B^(1/2). This
    matrix is symmetric, which avoids the complex numbers and the trouble with singular covariances
    that come with the matrix square root of a product.
    """
    difference = a.mean - b.mean
    cross = _root_trace(b.root @ a.covariance @ b.root)
    traces = float(np.trace(a.covariance) + np.trace(b.covariance))
    return max(float(difference @ difference) + traces - 2 * cross, 0.0)


def bootstrap(
    features: Tensor | NDArray[np.floating], reference: Moments, replicates: int, seed: int
) -> Array:
    """Fréchet distances [replicates] between resampled ``features`` [N, D] and ``reference``.

    The images in replicate r depend only on (seed, N, r), so the replicates of two methods with the
    same N are paired if their images are.

    A replicate repeats images, which adds a second bias and puts it above the distance itself: use
    the spread of the replicates, not their quantiles. If the distance is not much larger than its
    bias, the spread is too wide, by up to a factor of two compared with fresh samples.
    """
    x = np.asarray(features, np.float64)
    n, centre = len(x), x.mean(0)
    x = x - centre  # keeps the variances below from losing digits
    # with y = x B^(1/2), the matrix B^(1/2) A B^(1/2) is y's covariance for any weights
    y = x @ reference.root
    square_norms = np.square(x).sum(1)
    constant = float(np.trace(reference.covariance))
    distances = np.empty(replicates)
    for r, weights in enumerate(_draws(seed, n, replicates)):
        mean = weights @ x / n
        difference = mean + centre - reference.mean
        trace = (weights @ square_norms - n * (mean @ mean)) / (n - 1)
        drawn = weights > 0
        w = weights[drawn, None]
        z = y[drawn] - weights @ y / n
        z *= np.sqrt(w / (n - 1))
        # both products have the same nonzero eigenvalues; take the smaller one
        product = z @ z.T if len(z) < z.shape[1] else z.T @ z
        distances[r] = difference @ difference + trace + constant - 2 * _root_trace(product)
    return distances.clip(min=0)


def _draws(seed: int, n: int, replicates: int) -> Iterator[Array]:
    """For each replicate, how often it contains each of the ``n`` images, [n]."""
    for r in range(replicates):
        stream = KeyedStream.of(seed, "bootstrap", [f"{n}-{r}"])
        yield np.bincount(stream.integers(n, n)[0].numpy(), minlength=n).astype(np.float64)


def _root_trace(product: Array) -> float:
    """The sum of the square roots of the eigenvalues of a positive semidefinite matrix."""
    return float(np.sqrt(eigvalsh(product, overwrite_a=True).clip(min=0)).sum())


@dataclass(frozen=True)
class FID(ImageMetric):
    """The Fréchet distance of pooled features, with a 95% bootstrap interval.

    Args:
        replicates: number of bootstrap replicates.
    """

    name: ClassVar = "fid"
    values: ClassVar = (
        Value("fid", "FID"),
        Value("fid_low"),
        Value("fid_high"),
        Value("fid_replicates", table=False),
    )
    # tasks add the difference from a table's baseline, paired by replicate
    columns: ClassVar = (
        MetricColumn("FID", "fid", ("fid_low", "fid_high"), features=True),
        MetricColumn("FID difference", "fid_difference", ("fid_diff_low", "fid_diff_high"), "+.2f"),
    )

    replicates: int = 200

    def __post_init__(self) -> None:
        check_whole(self, {"replicates": 2})

    def needs(self, real: Real) -> dict[str, tuple[int, int | None]]:
        return {"fid": (len(real.pooled.mean) + 1, real.n)}

    def compute(self, generated: Generated, real: Real, seed: int) -> dict[str, Any]:
        if generated.pooled is None or generated.n < 2:
            return self.nothing()
        fid = frechet_distance(Moments.of(generated.pooled), real.pooled)
        replicates = bootstrap(generated.pooled, real.pooled, self.replicates, seed)
        half = Z * float(replicates.std(ddof=1))
        return {
            "fid": fid,
            "fid_low": max(fid - half, 0.0),
            "fid_high": fid + half,
            "fid_replicates": replicates.tolist(),
        }


@dataclass(frozen=True)
class SpatialFID(ImageMetric):
    """sFID: the Fréchet distance of spatial features (Nash et al. 2021, arXiv 2103.03841)."""

    name: ClassVar = "sfid"
    reads: ClassVar = frozenset({"spatial"})
    values: ClassVar = (Value("sfid", "sFID"),)

    def needs(self, real: Real) -> dict[str, tuple[int, int | None]]:
        return {} if real.spatial is None else {"sfid": (len(real.spatial.mean) + 1, real.n)}

    def compute(self, generated: Generated, real: Real, seed: int) -> dict[str, Any]:
        if generated.spatial is None or real.spatial is None or generated.n < 2:
            return self.nothing()
        return {"sfid": frechet_distance(Moments.of(generated.spatial), real.spatial)}
