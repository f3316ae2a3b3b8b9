"""Models to time whole tasks on: with their weights if those ship, else with random ones."""

from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import DDIMScheduler
from torch import Tensor

from bigain.backbones import Backbone
from bigain.backbones.schedule import NoiseSchedule
from bigain.compression import architecture_of
from bigain.datasets.base import Dataset
from bigain.experiments.composition import composed
from bigain.experiments.targets import build
from bigain.profiling.timing import random_denoiser, seeded
from bigain.utils.paths import REPOSITORY


@dataclass
class Subject:
    """A model with the classes and the latents to time it on.

    Attributes:
        condition: the classes' conditioning, [K, ...].
        latents: float32 [I, c, h, w]; encoded images if the model ships with its weights, else
            noise.
    """

    backbone: Any
    condition: Tensor
    latents: Tensor


def subject(
    name: str,
    images: int,
    device: torch.device,
    dtype: torch.dtype,
    seed: int,
    classes: int = 10,
) -> Subject:
    """A model of configs/model with ``images`` latents.

    Args:
        classes: how many a model of random weights tells apart; the others have their data's.
    """
    cfg = composed([f"model={name}", "dataset=fashion_mnist"])
    backbone: Backbone = build(cfg, "model")
    if not str(cfg.model.path).startswith(str(REPOSITORY)):
        with seeded(device, seed):
            random = RandomBackbone(random_denoiser(backbone.skeleton(), device, dtype))
            latents = torch.randn(images, *random.latent_shape, device=device)
            return Subject(random, random.condition(classes), latents)
    dataset: Dataset = build(cfg, "dataset")
    loaded = backbone.load(device, dtype)
    latents = loaded.encode(torch.stack([dataset[i].image for i in range(images)]))
    return Subject(loaded, loaded.condition(dataset), latents)


@dataclass
class RandomBackbone:
    """A denoiser of random weights, with as much of a `bigain.backbones.Backbone` as tasks use."""

    denoiser: Any
    schedule: NoiseSchedule = field(init=False)

    def __post_init__(self) -> None:
        self._architecture = architecture_of(self.denoiser)
        scheduler = DDIMScheduler(clip_sample=False)
        alphas = scheduler.alphas_cumprod.to(self.denoiser.device, torch.float32)
        self.schedule = NoiseSchedule(dict(scheduler.config), alphas)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return self._architecture.latent_shape

    def condition(self, classes: int) -> Tensor:
        """Class indices, or random text embeddings."""
        return self._architecture.random_condition(classes)

    def unconditional(self) -> Tensor:
        return self._architecture.null_condition()

    def decode(self, latents: Tensor) -> Tensor:
        return latents[:, :3].tanh()

    def predict(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        inputs = self._architecture.inputs(x.to(self.denoiser.dtype), t, condition)
        output = self.denoiser(**inputs, return_dict=False)[0]
        return output[:, : x.shape[1]].float()
