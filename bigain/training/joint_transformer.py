"""A latent text-to-image model of Fashion-MNIST, built like Stable Diffusion 3."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from omegaconf import DictConfig
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection, CLIPTokenizer

from bigain.training.denoising import FlowMatching, Objective, logit_normal_times
from bigain.training.text_to_image import TextToImage, places, predict, text_config


class JointTransformer(TextToImage):
    """Velocity prediction by a transformer in which text and image attend to each other.

    Like a Stable Diffusion 3 that is used without T5, it reads both of its CLIP encoders, and
    zeros in T5's place.
    """

    loss_name = "Velocity loss"
    pipeline = StableDiffusion3Pipeline

    def _objective(self, device: torch.device) -> Objective:
        return FlowMatching(predict)

    def _times(self, size: int, g: torch.Generator) -> Tensor:
        return logit_normal_times(size, g)

    def _model(self, latent: Sequence[int], device: torch.device) -> "JointlyConditioned":
        encoders = [build_text_encoder(self.cfg, self.tokenizer) for _ in range(2)]
        return JointlyConditioned(build_transformer(self.cfg, latent), *encoders)

    def _is_inner(self, name: str) -> bool:
        inner = "transformer_blocks" in name and ".linear." not in name
        return inner or ".layers." in name

    def _parts(self, model: nn.Module) -> dict[str, Any]:
        assert isinstance(model, JointlyConditioned)
        self.autoencoder.register_to_config(shift_factor=0.0)  # which the pipeline adds
        # in float16, which halves the size of the files
        return {
            "transformer": model.transformer.half(),
            "scheduler": FlowMatchEulerDiscreteScheduler(),
            "vae": self.autoencoder,
            "text_encoder": model.text_encoder.half(),
            "tokenizer": self.tokenizer,
            "text_encoder_2": model.text_encoder_2.half(),
            "tokenizer_2": self.tokenizer,
            "text_encoder_3": None,
            "tokenizer_3": None,
        }


class JointlyConditioned(nn.Module):
    """A joint transformer and the two text encoders that condition it."""

    def __init__(
        self,
        transformer: SD3Transformer2DModel,
        text_encoder: CLIPTextModelWithProjection,
        text_encoder_2: CLIPTextModelWithProjection,
    ) -> None:
        super().__init__()
        self.transformer = transformer
        self.text_encoder, self.text_encoder_2 = text_encoder, text_encoder_2

    def forward(self, x: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """Predict the velocity at x [B, c, h, w] and t [B], given the captions' tokens [B, L]."""
        where = {"position_ids": places(tokens), "output_hidden_states": True}
        found = [e(tokens, **where) for e in (self.text_encoder, self.text_encoder_2)]
        text = torch.cat([output.hidden_states[-2] for output in found], -1)
        velocity: Tensor = self.transformer(
            x,
            timestep=t,
            encoder_hidden_states=F.pad(text, (0, 0, 0, text.shape[1])),  # zeros in T5's place
            pooled_projections=torch.cat([output.text_embeds for output in found], -1),
            return_dict=False,
        )[0]
        return velocity


def build_transformer(cfg: DictConfig, latent: Sequence[int]) -> SD3Transformer2DModel:
    """Stable Diffusion 3's transformer, with a token for each pixel of a latent.

    Args:
        cfg: the settings of the reference model.
        latent: shape of a latent, (c, h, w).
    """
    model = SD3Transformer2DModel(
        sample_size=latent[-1],
        patch_size=1,
        in_channels=latent[0],
        out_channels=latent[0],
        num_layers=cfg.model.layers,
        num_attention_heads=cfg.model.heads,
        attention_head_dim=cfg.model.head_dim,
        joint_attention_dim=2 * cfg.text.width,
        caption_projection_dim=cfg.model.heads * cfg.model.head_dim,
        pooled_projection_dim=2 * cfg.text.width,
        pos_embed_max_size=latent[-1],
        qk_norm="rms_norm",
    )
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            if "norm" in name:  # adaLN-Zero (Peebles and Xie 2023)
                nn.init.zeros_(module.weight)
    nn.init.xavier_uniform_(model.pos_embed.proj.weight.view(model.inner_dim, -1))
    nn.init.zeros_(model.proj_out.weight)
    return model


def build_text_encoder(cfg: DictConfig, tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """CLIP's text encoder and projection with random weights."""
    config = text_config(cfg, tokenizer)
    config.projection_dim = cfg.text.width
    return CLIPTextModelWithProjection(config)
