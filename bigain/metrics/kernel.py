"""Kernel distance of features (KID, Bińkowski et al. 2018, arXiv 1801.01401)."""

from dataclasses import dataclass
from math import sqrt

from torch import Tensor
from torch_fidelity.metric_kid import (
    KEY_METRIC_KID_MEAN,
    KEY_METRIC_KID_STD,
    kid_features_to_metric,
)

from bigain.utils.randomness import key_of


@dataclass(frozen=True)
class KernelDistance:
    """Attributes:
    value: squared maximum mean discrepancy, unbiased, so it may fall below 0.
    error: standard error of its mean over the subsets; 0 for one.
    """

    value: float
    error: float


def kernel_distance(
    generated: Tensor, reference: Tensor, subsets: int, subset_size: int, seed: int
) -> KernelDistance:
    """Mean over random subsets, with the kernel (x.y / D + 1)^3; by torch-fidelity, in float64.

    Args:
        generated: features [N, D].
        reference: features [M, D].
        subsets: how many, each drawn anew from all images, keyed by ``seed``.
        subset_size: images of each set in a subset, at most N and M.

    Raises:
        ValueError: if either set has fewer.
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
