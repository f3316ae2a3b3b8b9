"""Small random diffusion pipelines, on disk as diffusers saves the published ones."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from bigain.backbones.schedule import NoiseSchedule
from bigain.backbones.text import byte_symbols

WEIGHTS = "diffusion_pytorch_model.safetensors"
MERGES = ["p h", "ph o", "pho t", "phot o</w>", "o f</w>"]
TEXT = 32  # channels of text embeddings
LENGTH = 77  # tokens of a prompt


def stable_diffusion(
    folder: Path,
    prediction_type: str = "epsilon",
    sample_size: int = 8,
    vae_levels: int = 2,
    **unet: Any,
) -> Path:
    """A StableDiffusionPipeline with sample_size x sample_size tokens at its highest resolution.

    Args:
        vae_levels: an image's side is ``sample_size * 2 ** (vae_levels - 1)``.
        unet: other settings of its U-Net.
    """
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "sample_size": sample_size,
        "block_out_channels": (8, 16),
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
        "cross_attention_dim": TEXT,
    }
    network = UNet2DConditionModel(**{**settings, **unet})
    words = tokenizer(folder / "tokenizer")
    scheduler = PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction_type,
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    pipeline = StableDiffusionPipeline(
        unet=network,
        vae=autoencoder(sample_size, vae_levels),
        text_encoder=CLIPTextModel(clip(words, TEXT)),
        tokenizer=words,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    _name_as_published(folder)
    return folder


def dit(folder: Path, classes: int = 1000, sample_size: int = 8, **transformer: Any) -> Path:
    """A DiTPipeline of sample_size / 2 x sample_size / 2 tokens; images are twice that size.

    Args:
        transformer: other settings of its transformer.
    """
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "sample_size": sample_size,
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "num_layers": 2,
        "in_channels": 4,
        "out_channels": 8,
        "patch_size": 2,
        "num_embeds_ada_norm": classes,
    }
    network = DiTTransformer2DModel(**{**settings, **transformer})
    pipeline = DiTPipeline(
        transformer=network,
        vae=autoencoder(sample_size),
        scheduler=DDIMScheduler(
            beta_start=0.0001, beta_end=0.02, beta_schedule="linear", clip_sample=False
        ),
        id2label={i: f"class {i}" for i in range(classes)},
    )
    pipeline.save_pretrained(folder)
    return folder


def clip(words: CLIPTokenizer, width: int, projection: int = 16) -> CLIPTextConfig:
    """A text encoder for this vocabulary."""
    return CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        projection_dim=projection,
    )


def autoencoder(sample_size: int, levels: int = 2, **settings: Any) -> AutoencoderKL:
    """From RGB to four channels, an image ``2 ** (levels - 1)`` times the latents' side."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(8,) * levels,
        norm_num_groups=4,
        sample_size=sample_size * 2 ** (levels - 1),
        **{"scaling_factor": 0.18215, **settings},
    )


def tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's, with one token per byte and a few longer ones: it takes any text."""
    symbols = byte_symbols()
    ends = [s + "</w>" for s in symbols]
    longer = [pair.replace(" ", "") for pair in MERGES]
    vocabulary = [*symbols, *ends, *longer, "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({v: i for i, v in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]))
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return CLIPTokenizer.from_pretrained(folder)


def _name_as_published(folder: Path) -> None:
    """Rename what today's libraries save to the names in the published Stable Diffusion files."""
    (folder / "tokenizer" / "tokenizer.json").unlink(missing_ok=True)
    path = folder / "text_encoder" / "model.safetensors"
    tensors = load_file(path)
    tensors = {f"text_model.{k.removeprefix('text_model.')}": v for k, v in tensors.items()}
    tensors["text_model.embeddings.position_ids"] = torch.arange(LENGTH)[None]
    save_file(tensors, path, {"format": "pt"})
    path = folder / "vae" / WEIGHTS
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(path)
    for new, name in old.items():
        tensors = {k.replace(f".{new}.", f".{name}."): v for k, v in tensors.items()}
    save_file(tensors, path, {"format": "pt"})


class TextUNet:
    """A U-Net whose conditions are text embeddings, under Stable Diffusion's schedule."""

    def __init__(self, unet: Any) -> None:
        self.denoiser = unet
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        self.schedule = NoiseSchedule({}, (1 - betas).cumprod(0).float())

    def predict(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        found: Tensor = self.denoiser(x, t, condition, return_dict=False)[0]
        return found
