"""What the metrics of generated images need from a network."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any, Protocol, Self, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from bigain.errors import BiGainError

T = TypeVar("T")


@dataclass(frozen=True)
class Features:
    """A network's outputs for N images, float32 on the CPU.

    Attributes:
        pooled: [N, D].
        spatial: [N, S], a few flattened channels of a middle layer's map, or None if the network
            has no such layer.
        logits: [N, K], or None if the network is not a classifier.
    """

    pooled: Tensor
    spatial: Tensor | None = None
    logits: Tensor | None = None

    @classmethod
    def cat(cls, parts: Sequence["Features"]) -> "Features":
        """The features of all parts, one after the other."""

        def joined(name: str) -> Tensor | None:
            values = [getattr(part, name) for part in parts]
            return None if values[0] is None else torch.cat(values)

        return cls(**{field.name: cast(Any, joined(field.name)) for field in fields(cls)})

    def __len__(self) -> int:
        return len(self.pooled)


class FeatureNetwork(Protocol):
    """A network that describes images by vectors, and the preparation of images for it.

    Attributes:
        name: a short name for tables and file names.
    """

    name: str

    def identity(self) -> dict[str, Any]:
        """What identifies its features: the name, the weights' SHA-256 and the preprocessing."""

    def load(self, device: torch.device) -> Self:
        """Load the weights and return the network itself."""

    def prepare(self, image: np.ndarray) -> Tensor:
        """An image, uint8 [H, W, C] with 1 or 3 channels, as the network's input [c, h, w]."""

    def __call__(self, batch: Tensor) -> Features:
        """The features of prepared images [B, c, h, w] on any device."""


@torch.inference_mode()
def extract(
    network: FeatureNetwork, images: Iterable[np.ndarray], batch_size: int, total: int
) -> Features:
    """The features of images, in the order of the images.

    Args:
        network: a network with its weights loaded.
        images: uint8 [H, W, C] each.
        batch_size: number of images per batch; it changes results only by rounding.
        total: the number of images, for the progress bar.

    Raises:
        BiGainError: if the network returns NaN or infinity.
    """
    parts = []
    with tqdm(total=total, unit="img", desc=f"features {network.name}", disable=None) as bar:
        for batch in batches(images, batch_size):
            part = network(torch.stack([network.prepare(image) for image in batch]))
            if not part.pooled.isfinite().all():
                raise BiGainError(
                    f"{network.name} returned NaN or infinity; check its weights (features.path)"
                )
            parts.append(part)
            bar.update(len(part))
    return Features.cat(parts)


def as_rgb(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 1 or 3] to [H, W, 3]; grey becomes three equal channels."""
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """The items in lists of ``size``, the last of which may be shorter."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
