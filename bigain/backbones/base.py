"""What a task needs from a diffusion model."""

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from bigain.backbones.schedule import Schedule


class Subjects(Protocol):
    """The classes and images that a model is asked about; see `bigain.datasets.Dataset`.

    Attributes:
        classes: the names of the classes, in the order of the labels.
        prompts: one per class, for text-conditional models.
        class_ids: each class's index among those that a class-conditional model was trained on, or
            None for data that no such model knows.
        known_classes: the number of classes that such a model knows in all, or None likewise.
    """

    classes: list[str]
    prompts: list[str]
    class_ids: list[int] | None
    known_classes: int | None

    def labels(self, index: int) -> tuple[int, ...]:
        """The classes of an image."""

    def prompt(self, index: int) -> str:
        """The text to generate from in place of this image."""


class Backbone(Protocol):
    """A diffusion model behind a few verbs; no code outside this package needs to know which one.

    Attributes:
        family: of the denoiser, such as "unet" or "dit"; the paper's settings may depend on it.
        denoiser: the U-Net or transformer, for :func:`bigain.compress`.
        schedule: how images are mixed with noise, and what `predict` predicts of the mixture.
        latent_shape: the shape (c, h, w) of one sample.
    """

    family: ClassVar[str]
    denoiser: nn.Module
    schedule: Schedule
    latent_shape: tuple[int, int, int]

    def identity(self) -> dict[str, Any]:
        """What identifies the weights in a run's fingerprint, found without loading the model.

        Its entry "scheduler" is the config of the scheduler that comes with the model.
        """

    def fetched(self) -> bool:
        """Whether all files are on this machine; else the first use fetches them."""

    def skeleton(self) -> nn.Module:
        """The denoiser on the meta device, built only from its config."""

    def load(self, device: torch.device, dtype: torch.dtype) -> "Backbone":
        """Load the weights and return the backbone itself."""

    def encode(self, images: Tensor) -> Tensor:
        """Images in [-1, 1], [B, C, H, W], to float32 latents [B, c, h, w]."""

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, c, h, w] to float32 images [B, C, H, W], approximately in [-1, 1]."""

    def condition(self, dataset: Subjects) -> Tensor:
        """One condition per class, [K, ...], to be computed once and indexed by class."""

    def condition_images(self, dataset: Subjects, indices: Sequence[int]) -> Tensor:
        """The class or prompt to generate from in place of each of these images, [B, ...]."""

    def unconditional(self) -> Tensor:
        """The condition [1, ...] for no class, used by classifier-free guidance."""

    def predict(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """What `Schedule.target` names, the noise or the velocity, in float32 [B, c, h, w].

        Args:
            x: noisy latents, float32 [B, c, h, w].
            t: timesteps [B], as the schedule or a sampler of it gives them.
            condition: [B, ...], rows of what the methods above return.
        """
