"""ADM's reference batch (Dhariwal and Nichol 2021, arXiv 2105.05233) as reference statistics.

The file holds 10,000 images of ImageNet's train split as ``arr_0``, and the moments of all
1,281,167 images by its authors' TensorFlow network: ``mu`` and ``sigma`` of pooled features,
``mu_s`` and ``sigma_s`` of spatial ones (guided-diffusion/evaluations/evaluator.py).
"""

import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bigain.errors import BiGainError, one_line
from bigain.features import FeatureNetwork, extract
from bigain.features.inception import SPATIAL
from bigain.metrics.frechet import Moments, frechet_distance
from bigain.store.reference_statistics import KEPT, ReferenceStatistics
from bigain.utils.hash_cache import sha256

TRAIN_IMAGES = 1_281_167
FAR = 30.0  # real images only reach this FID or sFID if the network or the layout is wrong
URL = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches/imagenet"
SOURCES = f"{URL}/256/VIRTUAL_imagenet256_labeled.npz or {URL}/512/VIRTUAL_imagenet512.npz"


def convert(path: Path, network: FeatureNetwork, batch_size: int) -> ReferenceStatistics:
    """Combine the batch's moments with features of its images by our own network.

    ADM flattens a map of spatial features as [17, 17, 7] and we as [7, 17, 17], so its moments are
    reordered. The FID and sFID between the images and the moments are printed, because they show
    how close our network is to ADM's.

    Args:
        path: the published npz.
        network: the loaded Inception network.
        batch_size: changes nothing beyond rounding.

    Raises:
        BiGainError: if the file is missing, damaged or not ADM's, or if its images are far from its
            moments under this network.
    """
    try:
        checksum = sha256(path)
        moments = _moments(path)
        with _images(path) as ((n, size), images):
            features = extract(network, images, batch_size, n)
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        reason = one_line(error)
        raise BiGainError(
            f"{path} is missing, damaged or not a reference batch of ADM ({reason}); get {SOURCES}"
        ) from error
    if features.spatial is None:
        raise BiGainError(f"{network.name} has no spatial features; ADM's reference needs them")
    pooled = _fits(path, "mu, sigma", moments["mu"], moments["sigma"], features.pooled)
    order = channels_first(features.spatial.shape[1])
    spatial = _fits(path, "mu_s, sigma_s", moments["mu_s"], moments["sigma_s"], features.spatial)
    spatial = Moments(spatial.n, spatial.mean[order], spatial.covariance[np.ix_(order, order)])
    distances = [
        frechet_distance(Moments.of(own), all_)
        for own, all_ in ((features.pooled, pooled), (features.spatial, spatial))
    ]
    said = f"FID {distances[0]:.2f}, sFID {distances[1]:.2f}"
    if not max(distances) < FAR:
        raise BiGainError(
            f"the {n} images in {path} are far from its own moments under {network.name} ({said}; "
            f"at most {FAR:.0f} is expected): the file or the network's weights are not the "
            f"published ones; get {SOURCES}"
        )
    print(f"the batch's {n} images against the moments of all {TRAIN_IMAGES}: {said}")
    data = {"name": f"adm-imagenet{size}", "sha256": checksum}
    name = f"{data['name']}-{network.name}"
    return ReferenceStatistics(name, network.identity(), data, pooled, spatial, features.pooled)


def channels_first(dimensions: int) -> NDArray[np.int64]:
    """Index in a flattened [H, W, C] map of each feature of the flattened [C, H, W] map, H = W."""
    side = math.isqrt(dimensions // SPATIAL)
    return np.arange(dimensions).reshape(side, side, SPATIAL).transpose(2, 0, 1).ravel()


def _fits(
    path: Path, keys: str, mean: np.ndarray, covariance: np.ndarray, features: Tensor
) -> Moments:
    d = features.shape[1]
    if mean.shape != (d,) or covariance.shape != (d, d):
        raise BiGainError(
            f"{path} has {keys} of shapes {mean.shape}, {covariance.shape} where the network's "
            f"features are {d}; get {SOURCES}"
        )
    return Moments(TRAIN_IMAGES, mean.astype(np.float64), covariance.astype(np.float64))


def _moments(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in ("mu", "sigma", "mu_s", "sigma_s")}


@contextmanager
def _images(path: Path) -> Iterator[tuple[tuple[int, int], Iterator[np.ndarray]]]:
    """The number of images with their side, and an iterator over the images, uint8 [H, W, 3].

    They are read one by one, because at 512 pixels they take 8 GB together.
    """
    form = np.lib.format
    headers = {(1, 0): form.read_array_header_1_0, (2, 0): form.read_array_header_2_0}
    with zipfile.ZipFile(path) as archive, archive.open("arr_0.npy") as file:
        shape, fortran, dtype = headers[form.read_magic(file)](file)
        square = len(shape) == 4 and shape[1] == shape[2] and shape[3] == 3
        if not square or not 2 <= shape[0] <= KEPT or dtype != np.uint8 or fortran:
            raise ValueError(f"arr_0 is {dtype} of shape {shape}, not up to {KEPT} images")

        def images() -> Iterator[np.ndarray]:
            for _ in range(shape[0]):
                data = file.read(math.prod(shape[1:]))
                yield np.frombuffer(data, np.uint8).reshape(shape[1:])

        yield (shape[0], shape[1]), images()
