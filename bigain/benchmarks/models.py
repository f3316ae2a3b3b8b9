"""Models to time whole tasks on: those that ship with their weights, others with random ones."""

from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel
from torch import Tensor

from bigain.backbones import Backbone
from bigain.datasets.base import Dataset
from bigain.experiments import configuration, experiment_files
from bigain.profiling.timing import random_denoiser, seeded
from bigain.utils.paths import REPOSITORY

CLASSES = 10


@dataclass
class Subject:
    """A model with the classes that it is asked about.

    Attributes:
        condition: one row a class, [K, ...].
        latents: float32 [I, c, h, w], of images if the model ships with its weights.
    """

    backbone: Any
    condition: Tensor
    latents: Tensor


def subject(name: str, images: int, device: torch.device, dtype: torch.dtype, seed: int) -> Subject:
    """A model of configs/model on ``images`` images."""
    cfg = experiment_files.composed([f"model={name}", "dataset=fashion_mnist"])
    backbone: Backbone = configuration.build(cfg, "model")
    if not str(cfg.model.path).startswith(str(REPOSITORY)):
        with seeded(device, seed):
            random = RandomBackbone(random_denoiser(backbone.skeleton(), device, dtype))
            latents = torch.randn(images, *random.latent_shape, device=device)
            return Subject(random, random.condition(CLASSES), latents)
    dataset: Dataset = configuration.build(cfg, "dataset")
    loaded = backbone.load(device, dtype)
    latents = loaded.encode(torch.stack([dataset[i].image for i in range(images)]))
    return Subject(loaded, loaded.condition(dataset), latents)


@dataclass
class RandomBackbone:
    """What tasks need of a backbone (`bigain.backbones.Backbone`), around random weights."""

    denoiser: Any
    noise_schedule: dict[str, Any] = field(init=False)
    alphas_cumprod: Tensor = field(init=False)

    def __post_init__(self) -> None:
        scheduler = DDIMScheduler(clip_sample=False)
        self.noise_schedule = dict(scheduler.config)
        self.alphas_cumprod = scheduler.alphas_cumprod.to(self._device, torch.float32)

    @property
    def _device(self) -> torch.device:
        return torch.device(self.denoiser.device)

    @property
    def _is_dit(self) -> bool:
        return isinstance(self.denoiser, DiTTransformer2DModel)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        size = self.denoiser.config.sample_size
        return (self.denoiser.config.in_channels, size, size)

    def condition(self, classes: int) -> Tensor:
        """Class numbers, or random text."""
        if self._is_dit:
            return torch.arange(classes, device=self._device)
        width = self.denoiser.config.cross_attention_dim
        return torch.randn(classes, 77, width, device=self._device).to(self.denoiser.dtype)

    def unconditional(self) -> Tensor:
        if self._is_dit:
            return torch.tensor([self.denoiser.config.num_embeds_ada_norm], device=self._device)
        return self.condition(1)

    def decode(self, latents: Tensor) -> Tensor:
        return latents[:, :3].tanh()

    def predict_noise(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        name = "class_labels" if self._is_dit else "encoder_hidden_states"
        x = x.to(self.denoiser.dtype)
        output = self.denoiser(x, timestep=t, return_dict=False, **{name: condition})[0]
        return output[:, : x.shape[1]].float()
