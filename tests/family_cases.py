"""Each of today's families: a tiny pipeline, the backbone that loads it, one way to generate."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffusers import (
    FluxPipeline,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionXLPipeline,
)

from bigain.backbones import Flux, PixArt, StableDiffusion3, StableDiffusionXL
from bigain.tasks.generate import Generate
from tests import saved_families

LENGTH = 40  # of T5's prompts


@dataclass(frozen=True)
class Family:
    """A tiny pipeline, the backbone that loads it, and one way to generate with either.

    Attributes:
        settings: of the tiny pipeline.
        options: of the backbone.
        protocol: for this project.
        call: of the pipeline, for the same.
    """

    make: Callable[..., Path]
    backbone: Any
    pipeline: Any
    protocol: Generate
    call: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


T5 = {"text_length": LENGTH}
PIXART = {"use_resolution_binning": False, "clean_caption": False, "max_sequence_length": LENGTH}
FLUX = {**T5, "sample_size": 8}
FAMILIES = {
    "sdxl": Family(
        saved_families.sdxl,
        StableDiffusionXL,
        StableDiffusionXLPipeline,
        Generate("euler", 6, 5.0),
        {"guidance_scale": 5.0},
    ),
    "pixart_alpha": Family(
        saved_families.pixart,
        PixArt,
        PixArtAlphaPipeline,
        Generate("dpmsolver++", 6, 4.5),
        {"guidance_scale": 4.5, **PIXART},
        options=T5,
    ),
    "pixart_sigma": Family(
        saved_families.pixart,
        PixArt,
        PixArtSigmaPipeline,
        Generate("dpmsolver++", 6, 4.5),
        {"guidance_scale": 4.5, **PIXART},
        {"sigma": True},
        T5,
    ),
    "sd3": Family(
        saved_families.sd3,
        StableDiffusion3,
        StableDiffusion3Pipeline,
        Generate("flow_euler", 6, 7.0),
        {"guidance_scale": 7.0, "max_sequence_length": LENGTH},
        options=T5,
    ),
    "sd3_without_t5": Family(
        saved_families.sd3,
        StableDiffusion3,
        StableDiffusion3Pipeline,
        Generate("flow_euler", 6, 7.0),
        {"guidance_scale": 7.0, "max_sequence_length": LENGTH},
        {"long": False},
        T5,
    ),
    "flux_dev": Family(
        saved_families.flux,
        Flux,
        FluxPipeline,
        Generate("flow_euler", 6, 1.0, "trailing"),
        {"guidance_scale": 2.5, "max_sequence_length": LENGTH},
        options={**FLUX, "distilled_guidance": 2.5},
    ),
    "flux_dev_guided": Family(
        saved_families.flux,
        Flux,
        FluxPipeline,
        Generate("flow_euler", 6, 2.0, "trailing"),
        {"true_cfg_scale": 2.0, "negative_prompt": ["", ""], "max_sequence_length": LENGTH},
        options=FLUX,
    ),
    "flux_schnell": Family(
        saved_families.flux,
        Flux,
        FluxPipeline,
        Generate("flow_euler", 4, 1.0, "trailing"),
        {"max_sequence_length": LENGTH},
        {"schnell": True},
        FLUX,
    ),
}
