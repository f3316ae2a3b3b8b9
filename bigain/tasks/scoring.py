"""From a configuration to scores of generated images, kept beside them."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bigain.errors import BiGainError
from bigain.features.base import FeatureNetwork, extract
from bigain.store import run_images
from bigain.store.identity import plain
from bigain.store.reference_statistics import ReferenceStatistics
from bigain.store.runs import Run, fingerprint
from bigain.tasks.evaluate import Evaluate
from bigain.utils.devices import device_of
from bigain.utils.images import ImageFolder, open_folder

if TYPE_CHECKING:
    from bigain.features.clip import ClipScore

SEED = 0  # of the bootstrap and of random subsets; fixed, so that methods stay paired


class Scoring:
    """The feature network, the reference and the metrics of a configuration.

    Attributes:
        network: not loaded.
        settings: of the metrics.

    Raises:
        BiGainError: if a setting, the network's weights or the reference cannot be used.
    """

    def __init__(
        self,
        network: FeatureNetwork,
        settings: Evaluate,
        *,
        where: str | None,
        statistics: Path,
        clip: str | None,
        device: str,
        batch_size: int,
        dataset: str,
    ) -> None:
        self.network, self.settings = network, settings
        self.clip, self.device, self.batch_size = clip, device, batch_size
        if where is None:
            raise BiGainError(
                f"dataset={dataset} names no reference; set evaluation.reference to a "
                "folder of images or an .npz of scripts/make_reference_statistics.py, or "
                "features=none"
            )
        self._reference: ImageFolder | ReferenceStatistics
        if Path(where).is_dir():
            self._reference = open_folder(where, mixed=True)
            return
        named = statistics / f"{where}-{self.network.name}.npz"
        path = Path(where) if where.endswith(".npz") else named
        self._reference = ReferenceStatistics.load(path)
        self._reference.check(self.network)

    @cached_property
    def _identity(self) -> dict[str, Any]:
        real = self._reference
        return {
            "network": self.network.identity(),
            "reference": real.sha256() if isinstance(real, ImageFolder) else real.fingerprint,
            "settings": plain(self.settings),
            "clip": self._clip.identity() if self._clip else None,
            "seed": SEED,
        }

    def record(self, n: int) -> str:
        """The name under which the scores of a run's first n images are kept."""
        key = fingerprint({**self._identity, "n": n})
        return f"scores-{self.network.name}-{key[:8]}"

    def of_run(self, run: Run, n: int) -> dict[str, Any]:
        """Scores of a run's first n images, computed once and kept as a record of it.

        Raises:
            BiGainError: if they cannot be scored; `TooFewImagesError` if they are too few.
        """
        name = self.record(n)
        found = run.read_record(name)
        if found is None:
            if run.read_record(run_images.ARCHIVED) is not None:
                raise BiGainError(
                    f"{run.path} has archived its images, which other scores need; remove its "
                    f"{run_images.ARCHIVED}.json and run its command again to draw them"
                )
            paths = run_images.files(run, run_images.first_ids(n))
            if missing := [path.name for path in paths if not path.exists()]:
                raise BiGainError(
                    f"{run.path} lacks {len(missing)} of its first {n} images, {missing[0]} first; "
                    "scores are of the first: run its command again, without start or shard"
                )
            images = open_folder(run_images.folder(run), n)
            if images.fingerprint != run.fingerprint:
                raise BiGainError(
                    f"{images.path} holds images of run {images.fingerprint}, not of its own "
                    f"{run.fingerprint}; move them away and run the run's command again"
                )
            found = self.of_images(images)
            run.record(name, found)
        return found

    def of_images(self, images: ImageFolder) -> dict[str, Any]:
        """Scores of a folder's images; see `Evaluate.score`."""
        device = device_of(self.device)
        network = self.network.load(device)
        reference = self._reference
        if isinstance(reference, ImageFolder):
            reference = self._extracted(network, reference)
        return self.settings.score(
            images,
            network,
            reference,
            batch_size=self.batch_size,
            seed=SEED,
            clip=self._clip.load(device) if self._clip else None,
        )

    @cached_property
    def _clip(self) -> "ClipScore | None":
        if self.clip is None:
            return None
        from bigain.features.clip import ClipScore  # only here: transformers is slow to import

        return ClipScore(self.clip)

    def _extracted(self, network: FeatureNetwork, images: ImageFolder) -> ReferenceStatistics:
        features = extract(network, images, self.batch_size, len(images))
        data = {"sha256": images.sha256(), "n": len(images)}
        return ReferenceStatistics.of(images.path.name, network, data, features)


_LABELS = {
    "sfid": "sFID",
    "kid": "KID",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "inception_score": "Inception Score",
    "clip_score": "CLIP score",
}


def summary(scores: dict[str, Any]) -> list[str]:
    """Scores in lines for people."""
    lines = []
    if scores["fid"] is not None:
        lines.append(
            f"FID ({scores['features']}) {scores['fid']:.2f} [{scores['fid_low']:.2f}, "
            f"{scores['fid_high']:.2f}], {scores['n']} images against {scores['reference_n']} of "
            f"{scores['reference_name']}"
        )
    rest = [f"{name} {scores[key]:.4g}" for key, name in _LABELS.items() if scores[key] is not None]
    return [*lines, ", ".join(rest)] if rest else lines
