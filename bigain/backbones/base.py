"""What a task needs of a diffusion model."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Subjects(Protocol):
    """What a model is asked about: the classes and images of a data set, `bigain.datasets.Dataset`.

    Attributes:
        classes: names, in the order of the labels.
        prompts: one per class, for text-conditional models.
        class_ids: each class's index among those that a class-conditional model was trained on;
            None for data that no such model knows.
        known_classes: how many classes such a model knows in all; None likewise.
    """

    classes: list[str]
    prompts: list[str]
    class_ids: list[int] | None
    known_classes: int | None

    def labels(self, index: int) -> tuple[int, ...]:
        """An image's classes."""

    def prompt(self, index: int) -> str:
        """What to draw in this image's place."""


class Backbone(Protocol):
    """A diffusion model behind five verbs; nothing outside this package knows which it is.

    Attributes:
        denoiser: the U-Net or transformer, for :func:`bigain.compress`.
        alphas_cumprod: float32 [T] on the model's device.
        noise_schedule: the config of the scheduler that comes with the model.
        latent_shape: of one sample, (c, h, w).
    """

    denoiser: nn.Module
    alphas_cumprod: Tensor
    noise_schedule: dict[str, Any]
    latent_shape: tuple[int, int, int]

    def identity(self) -> dict[str, Any]:
        """What names the weights in a run's fingerprint; reads no more than the files."""

    def skeleton(self) -> nn.Module:
        """The denoiser on the meta device, from its config alone."""

    def load(self, device: torch.device, dtype: torch.dtype) -> "Backbone":
        """Load the weights; returns itself."""

    def encode(self, images: Tensor) -> Tensor:
        """Images in [-1, 1], [B, C, H, W], to float32 latents [B, c, h, w]."""

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, c, h, w] to float32 images [B, C, H, W], about in [-1, 1]."""

    def condition(self, dataset: Subjects) -> Tensor:
        """One row per class, [K, ...], computed once and indexed by class."""

    def condition_images(self, dataset: Subjects, indices: Sequence[int]) -> Tensor:
        """What to draw in the place of each of these images, [B, ...]: its class or prompt."""

    def unconditional(self) -> Tensor:
        """The row [1, ...] of no class, for classifier-free guidance."""

    def predict_noise(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Noise in float32 latents x [B, c, h, w] at times t [B], given rows of ``condition``.

        t counts training timesteps; some samplers step between them.
        """
