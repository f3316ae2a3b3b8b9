"""Class-conditional DiT (Peebles and Xie 2023) in diffusers' form, in pixel space."""

from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DiTTransformer2DModel
from torch import Tensor

from bigain.backbones import files
from bigain.datasets.base import Dataset
from bigain.errors import BiGainError


class DiT:
    """A DiT on images themselves.

    Args:
        path: folder with ``transformer/`` and ``scheduler/``, as diffusers saves them.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def identity(self) -> dict[str, Any]:
        return {
            "transformer": files.digest(files.component(self.path, "transformer")),
            "scheduler": files.config(self.path / "scheduler" / "scheduler_config.json"),
        }

    def skeleton(self) -> DiTTransformer2DModel:
        folder = files.component(self.path, "transformer")
        with torch.device("meta"):
            return DiTTransformer2DModel.from_config(files.config(folder / "config.json")).eval()

    def load(self, device: torch.device, dtype: torch.dtype) -> "DiT":
        folder = files.component(self.path, "transformer")
        try:
            model, found = DiTTransformer2DModel.from_pretrained(
                folder, torch_dtype=dtype, low_cpu_mem_usage=False, output_loading_info=True
            )
        except Exception as error:  # diffusers raises many kinds for a damaged file
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise BiGainError(
                f"{folder} cannot be loaded ({reason}); copy the model there again"
            ) from error
        if strange := [*found["missing_keys"], *found["unexpected_keys"]]:
            raise BiGainError(
                f"{folder}: weights and config.json disagree about {len(strange)} tensors, "
                f"{strange[0]} first; copy both from the same model"
            )
        size = model.config.sample_size
        self.latent_shape = (model.config.in_channels, size, size)
        self.denoiser = model.to(device).eval().requires_grad_(False)
        scheduler = DDIMScheduler.from_pretrained(self.path / "scheduler")
        self.noise_schedule = dict(scheduler.config)
        # float32 whatever the model's type: half precision shifts the schedule (trap 4)
        self.alphas_cumprod = scheduler.alphas_cumprod.to(device, torch.float32)
        return self

    def encode(self, images: Tensor) -> Tensor:
        if tuple(images.shape[1:]) != self.latent_shape:
            raise BiGainError(
                f"the model takes images of {self.latent_shape} (channels, height, width), the "
                f"data set gives {tuple(images.shape[1:])}; choose a data set of that size"
            )
        return images.to(self.alphas_cumprod.device, torch.float32)

    def decode(self, latents: Tensor) -> Tensor:
        return latents.float()

    def condition(self, dataset: Dataset) -> Tensor:
        known = self.denoiser.config.num_embeds_ada_norm
        if len(dataset.classes) != known:
            raise BiGainError(
                f"the model knows {known} classes, the data set has {len(dataset.classes)}; "
                "choose the data set that the model was trained on"
            )
        return torch.arange(known, device=self.alphas_cumprod.device)

    def unconditional(self) -> Tensor:
        # the class after the last, which training gives to the images whose class it drops
        null = self.denoiser.config.num_embeds_ada_norm
        return torch.tensor([null], device=self.alphas_cumprod.device)

    def predict_noise(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        output = self.denoiser(
            x.to(self.denoiser.dtype), timestep=t, class_labels=condition, return_dict=False
        )[0]
        return output[:, : x.shape[1]].float()  # without the learned-variance channels
