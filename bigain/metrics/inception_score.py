"""Inception Score of a classifier's logits (Salimans et al. 2016, arXiv 1606.03498)."""

from dataclasses import dataclass

from torch import Tensor
from torch_fidelity.metric_isc import (
    KEY_METRIC_ISC_MEAN,
    KEY_METRIC_ISC_STD,
    isc_features_to_metric,
)

from bigain.utils.randomness import key_of

SPLITS = 10


@dataclass(frozen=True)
class InceptionScore:
    """Attributes:
    value: mean over ten splits, in 1..K.
    error: their standard deviation, as the field reports it.
    """

    value: float
    error: float


def inception_score(logits: Tensor, seed: int) -> InceptionScore:
    """exp of the mean divergence of p(class | image) from p(class); by torch-fidelity.

    Args:
        logits: [N, K].
        seed: of the shuffle into ten splits.

    Raises:
        ValueError: if there are fewer images than splits.
    """
    if len(logits) < SPLITS:
        raise ValueError(f"the Inception Score needs {SPLITS} images, got {len(logits)}")
    found = isc_features_to_metric(
        logits, SPLITS, shuffle=True, rng_seed=key_of(seed, "inception score") % 2**32
    )
    return InceptionScore(found[KEY_METRIC_ISC_MEAN], found[KEY_METRIC_ISC_STD])
