"""What the metrics of generated images need of a network."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any, Protocol, Self, cast

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from bigain.errors import BiGainError


@dataclass(frozen=True)
class Features:
    """What a network sees in N images, float32 on the CPU.

    Attributes:
        pooled: [N, D].
        spatial: [N, S], a few channels of a middle layer's map, flattened; None if the network
            has no such layer.
        logits: [N, K] of a classifier; None if the network is not one.
    """

    pooled: Tensor
    spatial: Tensor | None = None
    logits: Tensor | None = None

    @classmethod
    def cat(cls, parts: Sequence["Features"]) -> "Features":
        """One after the other."""

        def joined(name: str) -> Tensor | None:
            values = [getattr(part, name) for part in parts]
            return None if values[0] is None else torch.cat(values)

        return cls(**{field.name: cast(Any, joined(field.name)) for field in fields(cls)})

    def __len__(self) -> int:
        return len(self.pooled)


class FeatureNetwork(Protocol):
    """A network that describes images by vectors, and how it wants images prepared.

    Attributes:
        name: short, for tables and file names.
    """

    name: str

    def identity(self) -> dict[str, Any]:
        """What tells its features from others': name, SHA-256 of weights, preprocessing."""

    def load(self, device: torch.device) -> Self:
        """Load the weights; returns itself."""

    def prepare(self, image: np.ndarray) -> Tensor:
        """An image, uint8 [H, W, C] with 1 or 3 channels, as the network's input [c, h, w]."""

    def __call__(self, batch: Tensor) -> Features:
        """Features of prepared images [B, c, h, w] on any device."""


@torch.inference_mode()
def extract(
    network: FeatureNetwork, images: Iterable[np.ndarray], batch_size: int, total: int
) -> Features:
    """Features of images, in their order.

    Args:
        network: loaded.
        images: uint8 [H, W, C] each.
        batch_size: never changes a result beyond rounding.
        total: how many images there are, for the progress bar.

    Raises:
        BiGainError: if the network returns NaN or infinity.
    """
    parts = []
    with tqdm(total=total, unit="img", desc=f"features {network.name}") as bar:
        for images_of_batch in _batches(images, batch_size):
            part = network(torch.stack([network.prepare(image) for image in images_of_batch]))
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


def _batches(images: Iterable[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    rest = iter(images)
    while batch := list(islice(rest, size)):
        yield batch
