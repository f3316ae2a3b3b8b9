"""Diffusion models behind one interface."""

from bigain.backbones.base import Backbone
from bigain.backbones.dit import DiT

__all__ = ["Backbone", "DiT"]
