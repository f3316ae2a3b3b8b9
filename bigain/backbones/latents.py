"""Images to latents and back, for models that denoise latents."""

from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from bigain.backbones.checkpoint import Checkpoint
from bigain.errors import BiGainError
from bigain.utils.setting_types import check_types, fits, shown


class Autoencoder:
    """The KL autoencoder of a pipeline (Rombach et al. 2022).

    It works in float32 whatever the denoiser's type, and on one image at a time. An image is
    encoded once for hundreds of evaluations, so exact latents cost little, and memory stays
    small.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        options = {"torch_dtype": torch.float32, "low_cpu_mem_usage": False}
        found = checkpoint.config("vae")
        types = {"scaling_factor": float, "shift_factor": float | None}
        where = f"{checkpoint.path}/vae/config.json"
        check_types(where, found, types, checkpoint.mend)
        if found.get("scaling_factor") == 0:
            raise BiGainError(f"{where}: scaling_factor must not be 0; {checkpoint.mend}")
        for name in ("latents_mean", "latents_std"):
            if found.get(name) is not None:
                raise BiGainError(
                    f"{where} has {name}, numbers per channel that are not supported; choose a "
                    "model whose latents have scaling_factor and shift_factor alone"
                )
        self.vae: AutoencoderKL = checkpoint.load(AutoencoderKL, "vae", **options).to(device)
        self.vae.enable_slicing()
        self.device = device
        self.channels: int = self.vae.config.latent_channels
        self.scale: float = self.vae.config.scaling_factor
        self.shift: float = self.vae.config.shift_factor or 0.0

    @property
    def factor(self) -> int:
        """The number of image pixels per latent pixel along either axis."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @torch.no_grad()
    def encode(self, images: Tensor, size: int) -> Tensor:
        """The posterior mean, scaled: images [B, C, H, W] to float32 [B, c, size, size].

        Raises:
            BiGainError: if the images do not have the number of channels that the autoencoder takes
                (usually 3), or not the size that gives such latents.
        """
        wanted = (self.vae.config.in_channels, size * self.factor, size * self.factor)
        if tuple(images.shape[1:]) != wanted:
            kind = "colour" if wanted[0] == 3 else f"{wanted[0]}-channel"
            mends = [
                f"set model.image_size={wanted[1]}" if images.shape[2:] != wanted[1:] else "",
                f"choose a data set of {kind} images" if images.shape[1] != wanted[0] else "",
            ]
            raise BiGainError(
                f"the model takes images of {wanted} (channels, height, width), but the data set "
                f"gives {tuple(images.shape[1:])}; {' and '.join(filter(None, mends))}"
            )
        images = images.to(self.device, torch.float32)
        mean = self.vae.encode(images).latent_dist.mean
        return (mean - self.shift) * self.scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, c, h, w] to float32 images [B, 3, H, W]."""
        latents = latents.to(self.device, torch.float32)
        return self.vae.decode(latents / self.scale + self.shift).sample


def square(path: str, denoiser: Any) -> int:
    """The side of a denoiser's samples.

    Raises:
        BiGainError: if its config does not give a single side, because images are square here.
    """
    size = denoiser.config.sample_size
    if not fits(size, int) or size < 1:
        raise BiGainError(
            f"{path}: sample_size of the denoiser's config.json must be a whole number from 1, got "
            f"{shown(size)}; only square images are supported"
        )
    return size
