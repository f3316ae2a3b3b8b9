"""How well images match their prompts, on average."""

from dataclasses import dataclass
from math import sqrt
from typing import Any, ClassVar

from bigain.metrics.accuracy import Z
from bigain.metrics.image_metric import Generated, ImageMetric, Real, Value


@dataclass(frozen=True)
class ClipScoreMetric(ImageMetric):
    """The mean CLIP score with its 95% interval (Hessel et al. 2021, arXiv 2104.08718)."""

    name: ClassVar = "clip"
    reads: ClassVar = frozenset({"prompt_scores"})
    compares: ClassVar = False
    values: ClassVar = (
        Value("clip_score", "CLIP score"),
        Value("clip_low", table=False),
        Value("clip_high", table=False),
    )

    def compute(self, generated: Generated, real: Real, seed: int) -> dict[str, Any]:
        scores = generated.prompt_scores
        if scores is None:
            return self.nothing()
        mean, n = float(scores.mean()), len(scores)
        if n == 1:  # a single score has no interval
            return self.nothing() | {"clip_score": mean}
        half = Z * float(scores.std(ddof=1)) / sqrt(n)
        return {"clip_score": mean, "clip_low": mean - half, "clip_high": mean + half}
