"""Class-conditional DiT (Peebles and Xie 2023) from diffusers, on latents or on pixels."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import DiTTransformer2DModel
from torch import Tensor

from bigain.backbones.base import Subjects
from bigain.backbones.checkpoint import Checkpoint
from bigain.backbones.latents import Autoencoder, square
from bigain.backbones.schedule import NoiseSchedule
from bigain.backbones.scheduler_config import FILE, bounded
from bigain.errors import BiGainError


class DiT:
    """A DiT, which works on the images themselves if the pipeline has no autoencoder.

    Args:
        path: a folder with ``transformer/``, ``scheduler/`` and, for latents, ``vae/``, as saved by
            diffusers' DiTPipeline, or a hub id.
        revision: branch, tag or commit on the hub; None for the newest.
    """

    family: ClassVar[str] = "dit"

    def __init__(self, path: str, revision: str | None = None) -> None:
        self.checkpoint = Checkpoint(path, ("transformer", "vae", "scheduler"), revision)

    def identity(self) -> dict[str, Any]:
        found = {
            "transformer": self.checkpoint.digest("transformer"),
            "scheduler": bounded(self.checkpoint.config("scheduler", FILE)),
        }
        if self.checkpoint.has("vae"):
            found["vae"] = self.checkpoint.digest("vae")
        return found

    def fetched(self) -> bool:
        return self.checkpoint.fetched

    def skeleton(self) -> DiTTransformer2DModel:
        return self.checkpoint.skeleton(DiTTransformer2DModel, "transformer")

    def load(self, device: torch.device, dtype: torch.dtype) -> "DiT":
        latent = self.checkpoint.has("vae")
        self.schedule = NoiseSchedule.load(self.checkpoint, device, latent=latent)
        self.device = device
        self.autoencoder = Autoencoder(self.checkpoint, device) if latent else None
        options = {"torch_dtype": dtype, "low_cpu_mem_usage": False}
        model = self.checkpoint.load(DiTTransformer2DModel, "transformer", **options)
        size, channels = square(self.checkpoint.path, model), model.config.in_channels
        if self.autoencoder and self.autoencoder.channels != channels:
            raise BiGainError(
                f"{self.checkpoint.path}: vae gives latents of {self.autoencoder.channels} "
                f"channels, but transformer takes {channels}; copy both from the same model"
            )
        self.latent_shape = (channels, size, size)
        self.denoiser = model.to(device)
        return self

    def encode(self, images: Tensor) -> Tensor:
        if self.autoencoder:
            return self.autoencoder.encode(images, self.latent_shape[-1])
        if tuple(images.shape[1:]) != self.latent_shape:
            raise BiGainError(
                f"the model takes images of {self.latent_shape} (channels, height, width), but the "
                f"data set gives {tuple(images.shape[1:])}; choose a data set of that size"
            )
        return images.to(self.device, torch.float32)

    def decode(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(latents) if self.autoencoder else latents.float()

    def condition(self, dataset: Subjects) -> Tensor:
        known = self.denoiser.config.num_embeds_ada_norm
        ids = dataset.class_ids
        if ids is None or dataset.known_classes != known:
            raise BiGainError(
                f"the model knows {known} classes by number, and this data set's "
                f"{len(dataset.classes)} classes are not among them; choose the data set that the "
                "model was trained on, or a text-conditional model"
            )
        return torch.tensor(ids, device=self.device)

    def condition_images(self, dataset: Subjects, indices: Sequence[int]) -> Tensor:
        conditions = self.condition(dataset)
        return conditions[[dataset.labels(i)[0] for i in indices]]

    def unconditional(self) -> Tensor:
        # the index after the last class, which training uses for images whose class is dropped
        null = self.denoiser.config.num_embeds_ada_norm
        return torch.tensor([null], device=self.device)

    def predict(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        output = self.denoiser(
            x.to(self.denoiser.dtype), timestep=t, class_labels=condition, return_dict=False
        )[0]
        # drop the learned-variance channels
        return self.schedule.noise(output[:, : x.shape[1]], x, t)
