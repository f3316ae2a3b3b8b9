"""Images to latents and back, for models that denoise latents."""

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from bigain.backbones.checkpoint import Checkpoint
from bigain.errors import BiGainError


class Autoencoder:
    """The KL autoencoder of a pipeline (Rombach et al. 2022).

    In float32 whatever the denoiser's type, and one image at a time: an image is encoded once for
    hundreds of evaluations, so exact latents cost little, and memory stays small.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device) -> None:
        options = {"torch_dtype": torch.float32, "low_cpu_mem_usage": False}
        self.vae: AutoencoderKL = checkpoint.load(AutoencoderKL, "vae", **options).to(device)
        self.vae.enable_slicing()
        self.device = device
        self.channels: int = self.vae.config.latent_channels
        self.scale: float = self.vae.config.scaling_factor
        self.shift: float = self.vae.config.shift_factor or 0.0

    @property
    def factor(self) -> int:
        """Pixels to a latent's side."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @torch.no_grad()
    def encode(self, images: Tensor, size: int) -> Tensor:
        """The posterior mean, scaled: images [B, 3, H, W] to float32 [B, c, size, size].

        Raises:
            BiGainError: if the images are not RGB, or not of the size that gives such latents.
        """
        side = size * self.factor
        if tuple(images.shape[1:]) != (3, side, side):
            raise BiGainError(
                f"the model takes images of (3, {side}, {side}) (channels, height, width), the "
                f"data set gives {tuple(images.shape[1:])}; set model.image_size={side} and choose "
                "a data set of colour images"
            )
        images = images.to(self.device, torch.float32)
        mean = self.vae.encode(images).latent_dist.mean
        return (mean - self.shift) * self.scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, c, h, w] to float32 images [B, 3, H, W]."""
        latents = latents.to(self.device, torch.float32)
        return self.vae.decode(latents / self.scale + self.shift).sample
