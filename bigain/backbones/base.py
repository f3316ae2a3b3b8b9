"""What a task needs of a diffusion model."""

from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bigain.datasets.base import Dataset


class Backbone(Protocol):
    """A diffusion model behind four verbs; nothing outside this package knows which it is.

    Attributes:
        denoiser: the U-Net or transformer, for :func:`bigain.compress`.
        alphas_cumprod: float32 [T] on the model's device.
    """

    denoiser: nn.Module
    alphas_cumprod: Tensor

    def identity(self) -> dict[str, Any]:
        """What names the weights in a run's fingerprint; reads no more than the files."""

    def skeleton(self) -> nn.Module:
        """The denoiser on the meta device, from its config alone."""

    def load(self, device: torch.device, dtype: torch.dtype) -> "Backbone":
        """Load the weights; returns itself."""

    def encode(self, images: Tensor) -> Tensor:
        """Images in [-1, 1], [B, C, H, W], to float32 latents [B, c, h, w]."""

    def condition(self, dataset: Dataset) -> Tensor:
        """One row a class, [K, ...], computed once and indexed by class."""

    def predict_noise(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Noise in float32 latents x [B, c, h, w] at int64 t [B], given rows of ``condition``."""
