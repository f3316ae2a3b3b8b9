"""The kernel distance of features (KID, Bińkowski et al. 2018, arXiv 1801.01401)."""

from dataclasses import dataclass
from math import sqrt
from typing import Any, ClassVar

from torch import Tensor
from torch_fidelity.metric_kid import (
    KEY_METRIC_KID_MEAN,
    KEY_METRIC_KID_STD,
    kid_features_to_metric,
)

from bigain.metrics.image_metric import Generated, ImageMetric, Real, Value, check_whole
from bigain.utils.randomness import key_of


@dataclass(frozen=True)
class KernelDistance:
    """The kernel distance between two sets of images.

    Attributes:
        value: unbiased squared maximum mean discrepancy, which may be negative.
        error: standard error of the mean over subsets; 0 for a single subset.
    """

    value: float
    error: float


def kernel_distance(
    generated: Tensor, reference: Tensor, subsets: int, subset_size: int, seed: int
) -> KernelDistance:
    """The mean over random subsets with the kernel (x.y / D + 1)^3, by torch-fidelity in float64.

    Args:
        generated: features [N, D].
        reference: features [M, D].
        subsets: number of subsets, each drawn anew from all images and keyed by ``seed``.
        subset_size: number of images of either set in a subset, at most N and M.

    Raises:
        ValueError: if either set has fewer images.
    """
    found = kid_features_to_metric(
        generated.double(),
        reference.double(),
        kid_subsets=subsets,
        kid_subset_size=subset_size,
        rng_seed=key_of(seed, "kid") % 2**32,
        verbose=False,
    )
    return KernelDistance(
        found[KEY_METRIC_KID_MEAN], found[KEY_METRIC_KID_STD] / sqrt(max(subsets - 1, 1))
    )


@dataclass(frozen=True)
class KID(ImageMetric):
    """The kernel distance of pooled features.

    Args:
        subsets: number of subsets that the distance is averaged over.
        subset_size: number of images in each subset.
    """

    name: ClassVar = "kid"
    values: ClassVar = (Value("kid", "KID"), Value("kid_error"))

    subsets: int = 100
    subset_size: int = 1000

    def __post_init__(self) -> None:
        check_whole(self, {"subsets": 1, "subset_size": 2})

    def needs(self, real: Real) -> dict[str, tuple[int, int | None]]:
        return {"kid": (self.subset_size, len(real.features))}

    def compute(self, generated: Generated, real: Real, seed: int) -> dict[str, Any]:
        if generated.pooled is None or min(generated.n, len(real.features)) < self.subset_size:
            return self.nothing()
        found = kernel_distance(
            generated.pooled, real.features, self.subsets, self.subset_size, seed
        )
        return {"kid": found.value, "kid_error": found.error}
