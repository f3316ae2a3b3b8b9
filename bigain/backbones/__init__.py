"""Diffusion models behind one interface."""

from bigain.backbones.base import Backbone
from bigain.backbones.dit import DiT
from bigain.backbones.samplers import SAMPLERS, build_sampler, corrected
from bigain.backbones.schedule import SPACINGS
from bigain.backbones.stable_diffusion import StableDiffusion

__all__ = [
    "SAMPLERS",
    "SPACINGS",
    "Backbone",
    "DiT",
    "StableDiffusion",
    "build_sampler",
    "corrected",
]
