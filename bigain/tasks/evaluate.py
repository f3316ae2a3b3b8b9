"""Every metric of a folder of generated images against reference statistics."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, Protocol

import numpy as np

from bigain.errors import BiGainError
from bigain.features.base import FeatureNetwork, Features, extract
from bigain.metrics.accuracy import Z
from bigain.metrics.frechet import Moments, bootstrap, frechet_distance
from bigain.metrics.inception_score import SPLITS, inception_score
from bigain.metrics.kernel import kernel_distance
from bigain.metrics.manifold import density_coverage, precision_recall
from bigain.store.reference_statistics import ReferenceStatistics
from bigain.store.runs import Run, fingerprint
from bigain.utils.images import ImageFolder


class TooFewImagesError(BiGainError):
    """Fewer generated images than the statistics need."""


class PromptScorer(Protocol):
    """How well images show their prompts; `bigain.features.clip.ClipScore`."""

    def scores(
        self, images: Iterable[np.ndarray], prompts: Sequence[str], batch_size: int
    ) -> np.ndarray:
        """One score an image, float64 [N]; images are uint8 [H, W, C]."""


@dataclass(frozen=True)
class Evaluate:
    """Settings of the metrics; each default is that of the metric's authors.

    Args:
        replicates: of the bootstrap behind FID's interval.
        precision_neighbours: k of precision and recall, 3 as in Kynkäänniemi et al. 2019 and in
            the tables of ADM and DiT.
        coverage_neighbours: k of density and coverage, 5 as in Naeem et al. 2020.
        kid_subsets: subsets KID is averaged over.
        kid_subset_size: images in each.
        allow_few: score fewer images than the statistics need: FID then fits a singular
            covariance, and what cannot be computed at all is None.
    """

    replicates: int = 200
    precision_neighbours: int = 3
    coverage_neighbours: int = 5
    kid_subsets: int = 100
    kid_subset_size: int = 1000
    allow_few: bool = False

    def __post_init__(self) -> None:
        least = {
            "replicates": 2,
            "precision_neighbours": 1,
            "coverage_neighbours": 1,
            "kid_subsets": 1,
            "kid_subset_size": 2,
        }
        for name, low in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ValueError(f"Evaluate: {name} must be an integer from {low}, got {value!r}")

    def score(
        self,
        images: ImageFolder,
        network: FeatureNetwork,
        reference: ReferenceStatistics,
        *,
        batch_size: int,
        seed: int,
        clip: PromptScorer | None = None,
    ) -> dict[str, Any]:
        """All metrics, as plain JSON values; None where a network or too few images give none.

        The images count in the order of their names. ``seed`` keys the bootstrap, KID's subsets
        and the Inception Score's splits.

        Args:
            network: loaded; the one that ``reference`` was made with.
            clip: scores the images' own prompts if given.

        Raises:
            BiGainError: if the network is another one, if the images are in a run of other data
                than ADM's reference, if there are fewer images than the statistics need, or if
                ``clip`` is given and images tell no prompts.
        """
        reference.check(network)
        if (data := _data(images)) is not None:
            reference.check_data(data)
        prompts = images.prompts
        if clip is not None and prompts is None:
            raise BiGainError(
                f"{images.path}: not every image tells its prompt (PNG text bigain.prompt), which "
                "the CLIP score needs; generate them with this project, or leave CLIP out"
            )
        self._require(len(images), reference)
        found = extract(network, images, batch_size, len(images))
        result = {
            "features": network.name,
            "network": fingerprint(network.identity()),
            "reference": reference.fingerprint,
            "reference_name": reference.name,
            "reference_n": reference.n,
            "n": len(images),
            **self._frechet(found, reference, seed),
            **self._neighbours(found, reference, seed),
            **_inception_score(found, seed),
        }
        scores = None
        if clip is not None and prompts is not None:
            scores = clip.scores(images, prompts, batch_size)
        return result | _clip(scores)

    def _require(self, n: int, reference: ReferenceStatistics) -> None:
        """Refuse to fit to fewer images than the fit has unknowns, unless told to."""
        if self.allow_few:
            return
        kept = len(reference.features)
        needs = {
            "fid": (len(reference.pooled.mean) + 1, reference.n),
            "kid": (self.kid_subset_size, kept),
            "precision and recall": (self.precision_neighbours + 1, kept),
            "density and coverage": (self.coverage_neighbours + 1, kept),
            "inception_score": (SPLITS, reference.n),
        }
        if reference.spatial is not None:
            needs["sfid"] = (len(reference.spatial.mean) + 1, reference.n)
        whole = "evaluation.allow_few=true scores them all the same"
        if few := [f"{name} {need}" for name, (need, _) in needs.items() if n < need]:
            raise TooFewImagesError(
                f"{n} images are too few with {reference.name}: {', '.join(few)} at least; "
                f"generate more (limit=...), or {whole}"
            )
        if few := [f"{name} {need}" for name, (need, have) in needs.items() if have < need]:
            raise BiGainError(
                f"the reference statistics {reference.name} are of {reference.n} images, too few: "
                f"{', '.join(few)} at least; make them from more, or {whole}"
            )

    def _frechet(
        self, found: Features, reference: ReferenceStatistics, seed: int
    ) -> dict[str, Any]:
        names = ("fid", "fid_low", "fid_high", "fid_replicates", "sfid")
        if len(found) < 2:
            return dict.fromkeys(names)
        fid = frechet_distance(Moments.of(found.pooled), reference.pooled)
        replicates = bootstrap(found.pooled, reference.pooled, self.replicates, seed)
        half = Z * float(replicates.std(ddof=1))
        sfid = None
        if found.spatial is not None and reference.spatial is not None:
            sfid = frechet_distance(Moments.of(found.spatial), reference.spatial)
        values = (fid, max(fid - half, 0.0), fid + half, replicates.tolist(), sfid)
        return dict(zip(names, values, strict=True))

    def _neighbours(
        self, found: Features, reference: ReferenceStatistics, seed: int
    ) -> dict[str, Any]:
        """KID, precision, recall, density and coverage, against the kept features."""
        x, y = found.pooled, reference.features
        names = ("kid", "kid_error", "precision", "recall", "density", "coverage")
        result: dict[str, Any] = dict.fromkeys(names)
        fewer = min(len(x), len(y))
        if fewer >= self.kid_subset_size:
            kid = kernel_distance(x, y, self.kid_subsets, self.kid_subset_size, seed)
            result |= {"kid": kid.value, "kid_error": kid.error}
        if fewer > self.precision_neighbours:
            pr = precision_recall(x, y, self.precision_neighbours)
            result |= {"precision": pr.precision, "recall": pr.recall}
        if len(y) > self.coverage_neighbours:
            dc = density_coverage(x, y, self.coverage_neighbours)
            result |= {"density": dc.density, "coverage": dc.coverage}
        return result


def _data(images: ImageFolder) -> Mapping[str, Any] | None:
    """Identity of the data of the run that holds these images; None if none does."""
    folder = images.path.resolve().parent
    if images.fingerprint is None or not (folder / "run.json").is_file():
        return None
    run = Run.open(folder)
    return run.identity["dataset"] if run.fingerprint == images.fingerprint else None


def _inception_score(found: Features, seed: int) -> dict[str, Any]:
    if found.logits is None or len(found) < SPLITS:
        return {"inception_score": None, "inception_score_error": None}
    score = inception_score(found.logits, seed)
    return {"inception_score": score.value, "inception_score_error": score.error}


def _clip(scores: np.ndarray | None) -> dict[str, Any]:
    """The mean with its 95% interval; one image has no interval."""
    result: dict[str, Any] = {"clip_score": None, "clip_low": None, "clip_high": None}
    if scores is None:
        return result
    mean = float(scores.mean())
    result["clip_score"] = mean
    if len(scores) > 1:
        half = Z * float(scores.std(ddof=1)) / sqrt(len(scores))
        result |= {"clip_low": mean - half, "clip_high": mean + half}
    return result
