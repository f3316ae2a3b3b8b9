"""Diffusion models behind one interface."""

import bigain.utils.experiments_extra  # noqa: F401 (first, as it says what to install)

# isort: split
from bigain.backbones.base import Backbone
from bigain.backbones.dit import DiT
from bigain.backbones.flux import Flux
from bigain.backbones.pixart import PixArt
from bigain.backbones.samplers import EVERY_SAMPLER, SAMPLERS, build_sampler, check_sampler
from bigain.backbones.scheduler_config import SPACINGS
from bigain.backbones.stable_diffusion import StableDiffusion
from bigain.backbones.stable_diffusion_3 import StableDiffusion3
from bigain.backbones.stable_diffusion_xl import StableDiffusionXL

__all__ = [
    "EVERY_SAMPLER",
    "SAMPLERS",
    "SPACINGS",
    "Backbone",
    "DiT",
    "Flux",
    "PixArt",
    "StableDiffusion",
    "StableDiffusion3",
    "StableDiffusionXL",
    "build_sampler",
    "check_sampler",
]
