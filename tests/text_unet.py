"""The golden U-Net as a backbone."""

from typing import Any

import torch
from torch import Tensor

from bigain.backbones.schedule import NoiseSchedule


class TextUNet:
    """A U-Net whose conditions are text embeddings, under Stable Diffusion's schedule."""

    def __init__(self, unet: Any) -> None:
        self.denoiser = unet
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        self.schedule = NoiseSchedule({}, (1 - betas).cumprod(0).float())

    def predict(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        found: Tensor = self.denoiser(x, t, condition, return_dict=False)[0]
        return found
