"""Fidelity and diversity by nearest neighbours in feature space.

Precision and recall are those of Kynkäänniemi et al. 2019 (arXiv 1904.06991), density and coverage
those of Naeem et al. 2020 (arXiv 2002.09797). The ball around an image reaches to its k-th nearest
neighbour in its own set. All four depend on the numbers of images: compare them at equal numbers.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch_fidelity.metric_prc import (
    KEY_METRIC_PRECISION,
    KEY_METRIC_RECALL,
    prc_features_to_metric,
)

from bigain.metrics.image_metric import (
    Generated,
    ImageMetric,
    MetricColumn,
    Real,
    Value,
    check_whole,
)

BLOCK = 1024  # images whose distances to all others are held at once


@dataclass(frozen=True)
class PrecisionRecall:
    """Fidelity and diversity by the balls of both sets.

    Attributes:
        precision: share of generated images inside the ball of a reference image.
        recall: share of reference images inside the ball of a generated image.
    """

    precision: float
    recall: float


@dataclass(frozen=True)
class DensityCoverage:
    """Fidelity and diversity by the balls of the reference images alone.

    Attributes:
        density: mean number of reference images' balls around a generated image, over k, which may
            exceed 1.
        coverage: share of reference images whose ball holds a generated image.
    """

    density: float
    coverage: float


def precision_recall(generated: Tensor, reference: Tensor, neighbours: int) -> PrecisionRecall:
    """Precision and recall by torch-fidelity, in float64.

    Args:
        generated: features [N, D].
        reference: features [M, D].
        neighbours: k, which must be less than N and M.
    """
    _check(neighbours, generated, reference)
    found = prc_features_to_metric(
        generated.double(),
        reference.double(),
        prc_neighborhood=neighbours,
        prc_batch_size=BLOCK,
        save_cpu_ram=True,
        verbose=False,
    )

    def exact(share: float, n: int) -> float:  # torch-fidelity takes means in float32
        return round(share * n) / n

    return PrecisionRecall(
        exact(found[KEY_METRIC_PRECISION], len(generated)),
        exact(found[KEY_METRIC_RECALL], len(reference)),
    )


def density_coverage(generated: Tensor, reference: Tensor, neighbours: int) -> DensityCoverage:
    """Density and coverage; the arguments are those of `precision_recall`, with k < M."""
    _check(neighbours, reference)
    x, y = generated.double(), reference.double()
    holds = 0
    covered = 0
    for block in y.split(BLOCK):
        # k + 1, because each image is its own nearest neighbour
        radii = torch.cdist(block, y).kthvalue(neighbours + 1, dim=1, keepdim=True).values
        inside = torch.cdist(block, x) < radii
        holds += int(inside.sum())
        covered += int(inside.any(1).sum())
    return DensityCoverage(holds / (neighbours * len(x)), covered / len(y))


def _check(neighbours: int, *sets: Tensor) -> None:
    fewest = min(map(len, sets))
    if not 1 <= neighbours < fewest:
        raise ValueError(f"neighbours must lie in 1..{fewest - 1} here, got {neighbours}")


@dataclass(frozen=True)
class PrecisionRecallMetric(ImageMetric):
    """Precision and recall of pooled features.

    Args:
        neighbours: k; 3 as in Kynkäänniemi et al. 2019 and in the tables of ADM and DiT.
    """

    name: ClassVar = "precision_recall"
    values: ClassVar = (Value("precision", "precision"), Value("recall", "recall"))
    columns: ClassVar = (MetricColumn("Precision", "precision"), MetricColumn("Recall", "recall"))

    neighbours: int = 3

    def __post_init__(self) -> None:
        check_whole(self, {"neighbours": 1})

    def needs(self, real: Real) -> dict[str, tuple[int, int | None]]:
        return {"precision and recall": (self.neighbours + 1, len(real.features))}

    def compute(self, generated: Generated, real: Real, seed: int) -> dict[str, Any]:
        if generated.pooled is None or min(generated.n, len(real.features)) <= self.neighbours:
            return self.nothing()
        found = precision_recall(generated.pooled, real.features, self.neighbours)
        return {"precision": found.precision, "recall": found.recall}


@dataclass(frozen=True)
class DensityCoverageMetric(ImageMetric):
    """Density and coverage of pooled features.

    Args:
        neighbours: k; 5 as in Naeem et al. 2020.
    """

    name: ClassVar = "density_coverage"
    values: ClassVar = (Value("density", "density"), Value("coverage", "coverage"))
    columns: ClassVar = (MetricColumn("Density", "density"), MetricColumn("Coverage", "coverage"))

    neighbours: int = 5

    def __post_init__(self) -> None:
        check_whole(self, {"neighbours": 1})

    def needs(self, real: Real) -> dict[str, tuple[int, int | None]]:
        return {"density and coverage": (self.neighbours + 1, len(real.features))}

    def compute(self, generated: Generated, real: Real, seed: int) -> dict[str, Any]:
        if generated.pooled is None or len(real.features) <= self.neighbours:
            return self.nothing()
        found = density_coverage(generated.pooled, real.features, self.neighbours)
        return {"density": found.density, "coverage": found.coverage}
