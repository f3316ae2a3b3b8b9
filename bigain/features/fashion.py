"""Features of a small Fashion-MNIST classifier, because Inception was not trained on garments."""

from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bigain.errors import BiGainError, reason_of
from bigain.features.base import Features
from bigain.utils import model_folders

CONFIG, WEIGHTS = "config.json", "model.safetensors"


class FashionFeatures:
    """The features of a trained `GarmentNet`.

    Args:
        path: a folder with ``config.json`` and ``model.safetensors``; nothing is loaded yet.
    """

    name = "fashion"

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def identity(self) -> dict[str, Any]:
        """The name, the config and the weights' SHA-256.

        Raises:
            BiGainError: if a file is missing, or the config is damaged.
        """
        self._check()
        return {"name": self.name, **model_folders.digest(self.path)}

    def load(self, device: torch.device) -> Self:
        """Load the weights and return the network itself.

        Raises:
            BiGainError: if a file is missing or damaged, or config and weights do not match.
        """
        self._check()
        config = model_folders.config(self.path / CONFIG)
        try:
            network = GarmentNet(**config)
            network.load_state_dict(load_file(self.path / WEIGHTS))
        except (SafetensorError, TypeError, RuntimeError) as error:
            reason = reason_of(error)
            raise BiGainError(
                f"{self.path} cannot be loaded ({reason}); copy {CONFIG} and {WEIGHTS} there "
                "again, both from the same training"
            ) from error
        self.network = network.to(device, torch.float32).eval().requires_grad_(False)
        self.device = device
        return self

    def prepare(self, image: np.ndarray) -> Tensor:
        """A grey image, uint8 [H, W, 1 or 3], as float32 [1, 32, 32] in [-1, 1].

        A 28x28 image gets the data set's black border of two pixels.

        Raises:
            BiGainError: if the image is coloured, or neither 28x28 nor 32x32.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3):
            raise BiGainError(
                f"{self.name} features take uint8 [H, W, 1 or 3], got {image.dtype} "
                f"{list(image.shape)}"
            )
        height, width, _ = image.shape
        if (height, width) not in ((28, 28), (32, 32)):
            raise BiGainError(
                f"{self.name} features take images of 28x28 or 32x32, got {height}x{width}; "
                "choose another feature network"
            )
        if (image != image[:, :, :1]).any():
            raise BiGainError(
                f"{self.name} features take grey images, got a coloured one; "
                "choose another feature network"
            )
        grey = torch.from_numpy(image[:, :, 0].copy()).unsqueeze(0)
        border = (32 - height) // 2
        return F.pad(grey.float() / 127.5 - 1, [border] * 4, value=-1.0)

    @torch.inference_mode()
    def __call__(self, batch: Tensor) -> Features:
        """The features of prepared images [B, 1, 32, 32]: [B, 64], [B, 128] and logits [B, 10]."""
        pooled, spatial, logits = self.network(batch.to(self.device, torch.float32))
        return Features(pooled.cpu(), spatial.cpu(), logits.cpu())

    def _check(self) -> None:
        for name in (CONFIG, WEIGHTS):
            if not (self.path / name).is_file():
                raise BiGainError(
                    f"{self.path / name} not found; set the features' path to a folder with "
                    f"{CONFIG} and {WEIGHTS}, as assets/fashion_features is"
                )


class GarmentNet(nn.Module):
    """A residual classifier of garments with one residual block at 8x8 and one at 4x4.

    Args:
        stem: channels at 16x16.
        middle: channels at 8x8.
        inner: channels inside the last block.
        features: channels at 4x4, the length of the pooled features.
        classes: number of classes, the length of the logits.
    """

    def __init__(self, stem: int, middle: int, inner: int, features: int, classes: int) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "stem": stem,
            "middle": middle,
            "inner": inner,
            "features": features,
            "classes": classes,
        }
        self.first = nn.Sequential(
            *_halve(1, stem, kernel=4), *_halve(stem, middle, kernel=3), Residual(middle, middle)
        )
        self.last = nn.Sequential(*_halve(middle, features, kernel=3), Residual(features, inner))
        self.head = nn.Linear(features, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images [B, 1, 32, 32] in [-1, 1] to features and logits.

        Returns:
            pooled: [B, features], after ReLU and the mean over positions.
            spatial: [B, 128], the first two channels of the 8x8 map, flattened; sFID (Nash et al.
                2021) uses the first seven of Inception's.
            logits: [B, classes].
        """
        middle = self.first(x)
        pooled = self.last(middle).mean((2, 3))
        return pooled, middle[:, :2].flatten(1), self.head(pooled)


class Residual(nn.Module):
    """Two 3x3 convolutions added to the identity, then ReLU; [B, width, H, W] to the same shape."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        last = nn.BatchNorm2d(width)
        nn.init.zeros_(last.weight)  # training starts from the identity
        self.branch = nn.Sequential(
            nn.Conv2d(width, inner, 3, padding=1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, width, 3, padding=1, bias=False),
            last,
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.branch(x))


def _halve(channels: int, width: int, kernel: int) -> list[nn.Module]:
    """A convolution of stride 2 with ReLU, [B, channels, H, W] to [B, width, H/2, W/2]."""
    convolution = nn.Conv2d(channels, width, kernel, stride=2, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(width), nn.ReLU()]
