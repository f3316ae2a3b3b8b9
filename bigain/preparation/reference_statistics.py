"""Statistics of real images that generated images are scored against."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from bigain.datasets import Dataset
from bigain.errors import BiGainError
from bigain.experiments.targets import build
from bigain.features import FeatureNetwork, extract
from bigain.store.reference_statistics import ReferenceStatistics
from bigain.utils.devices import device_of
from bigain.utils.files import explained
from bigain.utils.images import open_folder, pixels

Source = tuple[str, dict[str, Any], int, Iterable[np.ndarray]]  # name, identity, number, images


def make(cfg: DictConfig) -> Path:
    """Compute the statistics, write them and return their file.

    Raises:
        BiGainError: if the images, the network or a setting cannot be used.
    """
    network: FeatureNetwork | None = build(cfg, "features")
    if network is None:
        raise BiGainError("choose the feature network: features=fashion, inception or dinov2")
    name, data, count, images = _folder(cfg) if cfg.folder else _dataset(cfg)
    name = f"{name}-{network.name}"
    features = extract(network.load(device_of(cfg.device)), images, cfg.batch_size, count)
    statistics = ReferenceStatistics.of(name, network, data, features)
    path = Path(cfg.output) / f"{name}.npz"
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    statistics.save(path)
    print(f"{path}: {statistics.n} images, fingerprint {statistics.fingerprint}")
    return path


def _dataset(cfg: DictConfig) -> Source:
    if cfg.name is not None:
        raise BiGainError(
            "name= goes with folder=; the statistics of a data set are named after it and its split"
        )
    # in a list of the keys, because `in` on the node itself would resolve the value
    if "size" in list(cfg.dataset) and cfg.get("model") is None:
        raise BiGainError(
            f"dataset={cfg.dataset.name} needs the size of the generated images; choose the model "
            "that draws them: model=sd2, dit_xl2_256, ..."
        )
    if (subset := cfg.dataset.get("subset")) is not None:
        raise BiGainError(
            f"a subset is scored against its whole split; got dataset.subset={subset}, remove it"
        )
    dataset: Dataset = build(cfg, "dataset")
    data = dataset.identity()
    # rounded as generated images are when they are written
    images = (pixels(dataset[i].image) for i in range(len(dataset)))
    # statistics fit one image size only, so their name includes it
    parts = [data["name"], data["split"], *([data["size"]] if "size" in data else [])]
    return "-".join(map(str, parts)), data, len(dataset), images


def _folder(cfg: DictConfig) -> Source:
    if cfg.name is None or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", cfg.name):
        raise BiGainError(
            f"folder= needs a name for its images, of letters, digits and _ . -; got {cfg.name}"
        )
    folder = open_folder(cfg.folder, mixed=True)
    return cfg.name, {"name": cfg.name, "sha256": folder.sha256()}, len(folder), folder
