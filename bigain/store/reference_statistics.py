"""What metrics need to know of the real images, computed once and kept in a file."""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bigain.errors import BiGainError, one_line, some
from bigain.features.base import FeatureNetwork, Features
from bigain.metrics.frechet import Moments
from bigain.store.identity import fingerprint
from bigain.utils.files import atomic
from bigain.utils.hash_cache import sha256

KEPT = 10_000  # images whose features are kept, for what moments do not give
FORMAT = 2  # since 2, the fingerprint covers the numbers
ADM = "adm-imagenet"  # how the names of ADM's references begin
COMMAND = "python scripts/make_reference_statistics.py dataset=... model=... features=..."
ADM_COMMAND = (
    "python scripts/prepare_imagenet.py --adm FILE, for features.mode=legacy_pytorch; "
    "docs/data.md says where the files of 256 and 512 pixels are"
)


@dataclass(frozen=True)
class ReferenceStatistics:
    """Features of all real images, condensed.

    Attributes:
        name: names the data, its split and the network, as a file name does.
        network: identity of the feature network.
        data: identity of the images.
        pooled: moments over all images.
        spatial: the same of the spatial features; None if the network has none.
        features: pooled features of at most `KEPT` images, evenly strided, float32 [M, D].
    """

    name: str
    network: Mapping[str, Any]
    data: Mapping[str, Any]
    pooled: Moments
    spatial: Moments | None
    features: Tensor

    @classmethod
    def of(
        cls, name: str, network: FeatureNetwork, data: Mapping[str, Any], features: Features
    ) -> "ReferenceStatistics":
        """Condense the features of all real images.

        Raises:
            BiGainError: if there are fewer than two.
        """
        n = len(features)
        if n < 2:
            raise BiGainError(f"reference statistics need at least 2 images, got {n}")
        spatial = None if features.spatial is None else Moments.of(features.spatial)
        kept = torch.arange(min(n, KEPT)) * n // min(n, KEPT)
        return cls(
            name,
            network.identity(),
            dict(data),
            Moments.of(features.pooled),
            spatial,
            features.pooled[kept].clone(),
        )

    @classmethod
    def load(cls, path: Path | str, command: str | None = None) -> "ReferenceStatistics":
        """Read what `save` wrote.

        Args:
            command: makes the file.

        Raises:
            BiGainError: if the file is missing, damaged or another kind of file.
        """
        path = Path(path)
        command = command or _command(path.name)
        if not path.is_file():
            raise BiGainError(f"{path} not found; make it: {command}")
        try:
            return _read(path, sha256(path))
        except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError,
                zipfile.BadZipFile, zlib.error) as error:  # fmt: skip
            reason = one_line(error)
            raise BiGainError(
                f"{path} is damaged or holds no reference statistics ({reason}); remove it and "
                f"make it again: {command}"
            ) from error

    def save(self, path: Path) -> None:
        """Write a compressed npz, all or nothing, the same bytes for the same statistics.

        Raises:
            BiGainError: if it cannot be written.
        """
        about = {**self._about, "name": self.name, "fingerprint": self.fingerprint}
        text = np.array(json.dumps(about, sort_keys=True))
        with atomic(path) as file:
            np.savez_compressed(file, about=text, **self._arrays)  # type: ignore[arg-type]

    @property
    def n(self) -> int:
        """Images the moments are over."""
        return self.pooled.n

    @cached_property
    def fingerprint(self) -> str:
        """The fingerprint of the numbers, the network and the data that they come from."""
        digest = hashlib.sha256()
        for name, array in self._arrays.items():
            digest.update(f"{name} {array.dtype} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return fingerprint({**self._about, "n": self.n, "numbers": digest.hexdigest()})

    def check(self, network: FeatureNetwork, command: str | None = None) -> None:
        """Refuse a network other than the one the statistics were made with.

        Args:
            command: makes them with this network.

        Raises:
            BiGainError: naming where they differ.
        """
        ours, theirs = dict(self.network), network.identity()
        if differ := sorted(k for k in {*ours, *theirs} if ours.get(k) != theirs.get(k)):
            raise BiGainError(
                f"reference statistics {self.name} were made with another feature network than "
                f"{network.name} (they differ in {', '.join(differ)}); make them with this one: "
                f"{command or _command(self.name)}"
            )

    def check_data(self, data: Mapping[str, Any]) -> None:
        """Refuse images of other classes than all of ImageNet's if these are ADM's statistics.

        Args:
            data: identity of the data set whose classes the images are of.

        Raises:
            BiGainError: naming both.
        """
        whole = data["name"] == "imagenet1k" and data.get("split") in ("val", "train")  # no subset
        if self.name.startswith(ADM) and not whole:
            raise BiGainError(
                f"the reference {self.name} is of all of ImageNet, the images are of "
                f"{data['name']}, split {data.get('split')}; score a run of dataset=imagenet1k "
                "without a subset, or leave out protocol=adm"
            )

    @property
    def _about(self) -> dict[str, Any]:
        return {"format": FORMAT, "network": dict(self.network), "data": dict(self.data)}

    def _check_arrays(self) -> None:
        """Refuse, with a ValueError, numbers that no images have."""
        for name, array in self._arrays.items():
            if not np.issubdtype(array.dtype, np.number) or not np.isfinite(array).all():
                raise ValueError(f"{name} holds something other than finite numbers")
        for name, moments in (("pooled", self.pooled), ("spatial", self.spatial)):
            if moments is None:
                continue
            width = moments.mean.shape[-1] if moments.mean.ndim else 0
            if moments.mean.shape != (width,) or moments.covariance.shape != (width, width):
                raise ValueError(f"{name} has a mean and a covariance of different sizes")
            if moments.n < 2:
                raise ValueError(f"{name} is of {moments.n} images")
        most, width = min(self.n, KEPT), len(self.pooled.mean)
        shape = tuple(self.features.shape)
        if len(shape) != 2 or not 1 <= shape[0] <= most or shape[1] != width:
            raise ValueError(f"features are {shape}, and should be at most {most} rows of {width}")

    @property
    def _arrays(self) -> dict[str, np.ndarray]:
        arrays = {"features": self.features.numpy()}
        for key, moments in (("pooled", self.pooled), ("spatial", self.spatial)):
            if moments is not None:
                arrays[f"{key}_n"] = np.array(moments.n)
                arrays[f"{key}_mean"] = moments.mean
                arrays[f"{key}_covariance"] = moments.covariance
        return arrays


@lru_cache(maxsize=2)  # the jobs of a table share them
def _read(path: Path, digest: str) -> ReferenceStatistics:
    """What a file of this SHA-256 holds; errors of many kinds if it is damaged."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}  # checks their checksums
    if "about" not in arrays:
        raise _foreign(path, list(arrays))
    about = json.loads(str(arrays["about"]))
    found = ReferenceStatistics(
        about["name"],
        about["network"],
        about["data"],
        _moments(arrays, "pooled"),
        _moments(arrays, "spatial") if "spatial_n" in arrays else None,
        torch.from_numpy(arrays["features"]),
    )
    if about["format"] != FORMAT:
        raise ValueError(f"its format is {about['format']}, this code's {FORMAT}")
    found._check_arrays()
    if found.fingerprint != about["fingerprint"]:
        raise ValueError("its numbers are not those it was written with")
    return found


def _command(name: str) -> str:
    """What makes the statistics of this name."""
    return ADM_COMMAND if name.startswith(ADM) else COMMAND


def _foreign(path: Path, names: Sequence[str]) -> BiGainError:
    """What is said of an npz that another program wrote, with arrays of these names."""
    holds = some(names, 5) or "no arrays"
    if {"mu", "sigma"} <= set(names):
        holds += ", a mean and a covariance as pytorch-fid, clean-fid and torch-fidelity save them"
    return BiGainError(
        f"{path} was not written by this project: it holds {holds}. Needed are also the number of "
        "images, their features, and which network and images they come from; keep it under "
        f"another name, and make the statistics from the images: {_command(path.name)}"
    )


def _moments(arrays: Mapping[str, np.ndarray], key: str) -> Moments:
    return Moments(int(arrays[f"{key}_n"]), arrays[f"{key}_mean"], arrays[f"{key}_covariance"])
