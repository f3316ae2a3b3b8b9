"""Metrics of a folder of generated images against what is known of real ones."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from bigain.errors import BiGainError
from bigain.features.base import FeatureNetwork, Features, extract
from bigain.metrics.image_metric import Generated, ImageMetric
from bigain.store.identity import fingerprint
from bigain.store.reference_statistics import ReferenceStatistics
from bigain.store.runs import Run
from bigain.utils.images import ImageFolder

NETWORK = frozenset({"pooled", "spatial", "logits"})  # what a feature network gives metrics to read
PROMPTS = "prompt_scores"  # what a `PromptScorer` gives


class TooFewImagesError(BiGainError):
    """Fewer generated images than the statistics need."""


class PromptScorer(Protocol):
    """How well images show their prompts; `bigain.features.clip.ClipScore`."""

    def scores(
        self, images: Iterable[np.ndarray], prompts: Sequence[str], batch_size: int
    ) -> np.ndarray:
        """One score per image, float64 [N]; images are uint8 [H, W, C]."""


@dataclass(frozen=True)
class Evaluate:
    """Metrics to compute.

    Args:
        metrics: each with its settings.
        allow_few: score fewer images than the statistics need: FID then fits a singular
            covariance, and what cannot be computed at all is None.
    """

    metrics: Sequence[ImageMetric]
    allow_few: bool = False

    def score(
        self,
        images: ImageFolder,
        network: FeatureNetwork,
        reference: ReferenceStatistics,
        *,
        batch_size: int,
        seed: int,
        clip: PromptScorer | None = None,
    ) -> dict[str, dict[str, Any]]:
        """The values of each metric by its name, as plain JSON beside what they were made with.

        The images count in the order of their names. Features are extracted once for all metrics,
        and only if one reads them. ``seed`` keys the bootstrap, KID's subsets and the Inception
        Score's splits.

        Args:
            network: loaded; the one that ``reference`` was made with.
            clip: scores the images' own prompts if given.

        Raises:
            BiGainError: if the network is another one, if the images are in a run of other data
                than ADM's reference, if there are fewer images than the statistics need, or if
                a metric reads the prompts and images tell none.
        """
        reference.check(network)
        if (data := _data(images)) is not None:
            reference.check_data(data)
        reads = frozenset().union(*(metric.reads for metric in self.metrics))
        prompts = images.prompts
        if PROMPTS in reads and clip is not None and prompts is None:
            raise BiGainError(
                f"{images.path}: not every image tells its prompt (PNG text bigain.prompt), which "
                "the CLIP score needs; generate them with this project, or leave CLIP out"
            )
        self._require(len(images), reference)
        n = len(images)
        found: Features | None = None
        if reads & NETWORK:
            found = extract(network, images, batch_size, n)
        scores = None
        if PROMPTS in reads and clip is not None and prompts is not None:
            scores = clip.scores(images, prompts, batch_size)
        generated = Generated(
            n,
            found.pooled if found else None,
            found.spatial if found else None,
            found.logits if found else None,
            scores,
        )
        about = {
            "features": network.name,
            "network": fingerprint(network.identity()),
            "reference": reference.fingerprint,
            "reference_name": reference.name,
            "reference_n": reference.n,
            "n": n,
        }
        return {m.name: about | m.compute(generated, reference, seed) for m in self.metrics}

    def _require(self, n: int, reference: ReferenceStatistics) -> None:
        """Refuse to fit to fewer images than the fit has unknowns, unless told to."""
        if self.allow_few:
            return
        needs: dict[str, tuple[int, int | None]] = {}
        for metric in self.metrics:
            needs |= metric.needs(reference)
        anyway = "evaluation.allow_few=true scores them all the same"
        if few := [f"{name} {need}" for name, (need, _) in needs.items() if n < need]:
            raise TooFewImagesError(
                f"{n} images are too few with {reference.name}: {', '.join(few)} at least; "
                f"generate more (limit=...), or {anyway}"
            )
        short = ((name, need) for name, (need, have) in needs.items() if (have or need) < need)
        if few := [f"{name} {need}" for name, need in short]:
            raise BiGainError(
                f"the reference statistics {reference.name} are of {reference.n} images, too few: "
                f"{', '.join(few)} at least; make them from more, or {anyway}"
            )


def _data(images: ImageFolder) -> Mapping[str, Any] | None:
    """Identity of the data of the run that holds these images; None if none does."""
    folder = images.path.resolve().parent
    if images.fingerprint is None or not (folder / "run.json").is_file():
        return None
    run = Run.open(folder)
    return run.identity["dataset"] if run.fingerprint == images.fingerprint else None
