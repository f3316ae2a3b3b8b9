"""Scores of generated images, kept beside them: a record for each metric."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self

import torch

from bigain.errors import BiGainError
from bigain.features.base import FeatureNetwork, extract
from bigain.metrics.image_metric import ImageMetric
from bigain.store import run_images
from bigain.store.identity import fingerprint, plain
from bigain.store.reference_statistics import ReferenceStatistics
from bigain.store.runs import Run
from bigain.store.wanted_scores import WantedScores
from bigain.tasks.evaluate import NETWORK, PROMPTS, Evaluate, PromptScorer
from bigain.utils.images import ImageFolder, open_folder, open_images

SEED = 0  # of the bootstrap and of random subsets; fixed, so that methods stay paired
Reference = ImageFolder | ReferenceStatistics
ABOUT = ("features", "network", "reference", "reference_name", "reference_n", "n")


class PromptNetwork(PromptScorer, Protocol):
    """A `PromptScorer` that can be named before its weights are loaded."""

    def identity(self) -> dict[str, Any]:
        """What tells its scores from others'."""

    def load(self, device: torch.device) -> Self:
        """Load the weights; returns itself."""


def open_reference(
    where: str, statistics: Path, network: FeatureNetwork, command: str | None = None
) -> Reference:
    """The real images to compare with.

    Args:
        where: a folder of images, an .npz of statistics, or the name of one in ``statistics``.
        statistics: the folder of those that have names.
        network: that scores the images; not loaded.
        command: makes the statistics that have a name, for errors.

    Raises:
        BiGainError: if there are none, or they were made with another network.
    """
    if Path(where).is_dir():
        return open_folder(where, mixed=True)
    if where.endswith(".npz"):
        found = ReferenceStatistics.load(where)
        found.check(network)
    else:
        found = ReferenceStatistics.load(statistics / f"{where}-{network.name}.npz", command)
        found.check(network, command)
    return found


@dataclass(frozen=True)
class Scoring:
    """How the images of runs and folders are scored.

    Args:
        network: not loaded.
        metrics: to compute; those that read prompts are left out without ``clip``.
        reference: real images, or what is known of them.
        clip: scores images by their prompts; not loaded, None for none.
        allow_few: as `Evaluate` takes it.
    """

    network: FeatureNetwork
    metrics: Sequence[ImageMetric]
    reference: Reference
    device: torch.device
    batch_size: int
    clip: PromptNetwork | None = None
    allow_few: bool = False

    @property
    def chosen(self) -> list[ImageMetric]:
        """The metrics that can be computed."""
        return [m for m in self.metrics if self.clip is not None or PROMPTS not in m.reads]

    def record(self, metric: ImageMetric, n: int) -> str:
        """The name under which a metric's values of a run's first n images are kept."""
        key: dict[str, Any] = {
            "metric": metric.name,
            "version": metric.version,
            "settings": {k: v for k, v in plain(metric).items() if k != "class"},
            "n": n,
            "seed": SEED,
        }
        if metric.reads & NETWORK:
            key["network"] = self._identities["network"]
        if metric.compares:
            key["reference"] = self._identities["reference"]
        if PROMPTS in metric.reads:
            key["clip"] = self._identities["clip"]
        if self.allow_few:
            key["allow_few"] = True
        return f"scores-{metric.name}-{fingerprint(key)[:8]}"

    @cached_property
    def _identities(self) -> dict[str, Any]:
        real = self.reference
        return {
            "network": self.network.identity(),
            "reference": real.sha256() if isinstance(real, ImageFolder) else real.fingerprint,
            "clip": self.clip.identity() if self.clip else None,
        }

    def read(self, run: Run, n: int) -> dict[str, Any] | None:
        """All scores there are of a run's first n images; None if there are none.

        Returns:
            The values of all metrics, None for those that are missing, and `ABOUT`.
        """
        found = self._found(run, n)
        return self._merged(found) if found else None

    def complete(self, run: Run, n: int) -> bool:
        """Whether the run has all scores of its first n images that it can still be given."""
        return self.wanted(n).complete(run)

    def wanted(self, n: int) -> WantedScores:
        """Where a run keeps the scores of its first n images."""
        compared = [metric.name for metric in self.chosen if metric.compares]
        every = {metric.name: self.record(metric, n) for metric in self.chosen}
        return WantedScores(every, compared or list(every))

    def check_images(self, run: Run, n: int) -> None:
        """Refuse a run whose first n images were archived without any score against the reference.

        Raises:
            BiGainError: if those images must be drawn again before they can be scored.
        """
        found = self._found(run, n)
        missing = self._missing(found)
        archived = run.read_record(run_images.ARCHIVED) is not None
        if missing and archived and not self._against(found):
            raise BiGainError(f"{run.path} {_archived(missing)}")

    def of_run(self, run: Run, n: int) -> dict[str, Any]:
        """Scores of a run's first n images, each computed once and kept as a record of the run.

        What an archived run lacks stays None as long as it has other scores against the reference.

        Raises:
            BiGainError: if they cannot be scored; `TooFewImagesError` if they are too few.
        """
        self.check_images(run, n)
        found = self._found(run, n)
        missing = self._missing(found)
        if missing and run.read_record(run_images.ARCHIVED) is None:
            made = self._of(self._images(run, n), missing)
            for metric in missing:
                run.record(self.record(metric, n), made[metric.name])
            found |= made
        return self._merged(found)

    def of_images(self, images: ImageFolder) -> dict[str, Any]:
        """Scores of a folder's images, in the shape that `read` returns."""
        return self._merged(self._of(images, self.chosen))

    def left_out(self, run: Run, n: int) -> str | None:
        """Why the run lacks some of its scores and what would give them; None if it has all."""
        missing = self._missing(self._found(run, n))
        return f"the run {_archived(missing)}" if missing else None

    def _found(self, run: Run, n: int) -> dict[str, dict[str, Any]]:
        records = {m.name: run.read_record(self.record(m, n)) for m in self.chosen}
        return {name: record for name, record in records.items() if record is not None}

    def _missing(self, found: Mapping[str, Any]) -> list[ImageMetric]:
        """The metrics of which there is no score."""
        return [metric for metric in self.chosen if metric.name not in found]

    def _against(self, found: Mapping[str, Any]) -> bool:
        """Whether some scores are of the reference, if any are to be."""
        return not found.keys().isdisjoint(self.wanted(0).against)

    def _merged(self, found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        merged: dict[str, Any] = dict.fromkeys(ABOUT)
        for metric in self.metrics:
            merged |= found.get(metric.name) or metric.nothing()
        return merged

    def _images(self, run: Run, n: int) -> ImageFolder:
        paths = run_images.files(run, run_images.first_ids(n))
        if missing := [path.name for path in paths if not path.exists()]:
            raise BiGainError(
                f"{run.path} lacks {len(missing)} of its first {n} images, {missing[0]} first; "
                "scores are of the first: run its command again, without start or shard"
            )
        images = open_images(run_images.folder(run), paths)
        if images.fingerprint != run.fingerprint:
            raise BiGainError(
                f"{images.path} holds images of run {images.fingerprint}, not of its own "
                f"{run.fingerprint}; move them away and run the run's command again"
            )
        return images

    def _of(self, images: ImageFolder, metrics: Sequence[ImageMetric]) -> dict[str, dict[str, Any]]:
        network = self.network.load(self.device)
        reference = self.reference
        if isinstance(reference, ImageFolder):
            reference = self._extracted(network, reference)
        prompted = any(PROMPTS in metric.reads for metric in metrics)
        return Evaluate(metrics, self.allow_few).score(
            images,
            network,
            reference,
            batch_size=self.batch_size,
            seed=SEED,
            clip=self.clip.load(self.device) if self.clip and prompted else None,
        )

    def _extracted(self, network: FeatureNetwork, images: ImageFolder) -> ReferenceStatistics:
        features = extract(network, images, self.batch_size, len(images))
        data = {"sha256": images.sha256(), "n": len(images)}
        return ReferenceStatistics.of(images.path.name, network, data, features)


def _archived(missing: Sequence[ImageMetric]) -> str:
    return (
        f"has archived its images, which {', '.join(m.name for m in missing)} would need; remove "
        f"its {run_images.ARCHIVED}.json and run its command again to draw them"
    )


def summary(scores: Mapping[str, Any], metrics: Sequence[ImageMetric]) -> list[str]:
    """Scores in lines for people."""
    lines, rest = [], []
    for value in (value for metric in metrics for value in metric.values if value.label):
        number = scores[value.key]
        if number is None:
            continue
        if value.key == "fid":
            lines.append(
                f"FID ({scores['features']}) {number:.2f} [{scores['fid_low']:.2f}, "
                f"{scores['fid_high']:.2f}], {scores['n']} images against "
                f"{scores['reference_n']} of {scores['reference_name']}"
            )
        else:
            rest.append(f"{value.label} {number:.4g}")
    return [*lines, ", ".join(rest)] if rest else lines
