"""The Inception Score of a classifier's logits (Salimans et al. 2016, arXiv 1606.03498)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor
from torch_fidelity.metric_isc import (
    KEY_METRIC_ISC_MEAN,
    KEY_METRIC_ISC_STD,
    isc_features_to_metric,
)

from bigain.metrics.image_metric import Generated, ImageMetric, Real, Value
from bigain.utils.randomness import key_of

SPLITS = 10


@dataclass(frozen=True)
class InceptionScore:
    """The Inception Score of a set of images.

    Attributes:
        value: mean over ten splits, between 1 and K.
        error: standard deviation over the splits, as is usually reported.
    """

    value: float
    error: float


def inception_score(logits: Tensor, seed: int) -> InceptionScore:
    """The exp of the mean divergence of p(class | image) from p(class), by torch-fidelity.

    Args:
        logits: [N, K].
        seed: seed of the shuffle into ten splits.

    Raises:
        ValueError: if there are fewer images than splits.
    """
    if len(logits) < SPLITS:
        raise ValueError(f"the Inception Score needs {SPLITS} images, got {len(logits)}")
    found = isc_features_to_metric(
        logits, SPLITS, shuffle=True, rng_seed=key_of(seed, "inception score") % 2**32
    )
    return InceptionScore(found[KEY_METRIC_ISC_MEAN], found[KEY_METRIC_ISC_STD])


@dataclass(frozen=True)
class InceptionScoreMetric(ImageMetric):
    """The Inception Score, which uses only generated images."""

    name: ClassVar = "inception_score"
    reads: ClassVar = frozenset({"logits"})
    compares: ClassVar = False
    values: ClassVar = (
        Value("inception_score", "Inception Score"),
        Value("inception_score_error", table=False),
    )

    def needs(self, real: Real) -> dict[str, tuple[int, int | None]]:
        return {"inception_score": (SPLITS, None)}

    def compute(self, generated: Generated, real: Real, seed: int) -> dict[str, Any]:
        if generated.logits is None or generated.n < SPLITS:
            return self.nothing()
        found = inception_score(generated.logits, seed)
        return {"inception_score": found.value, "inception_score_error": found.error}
