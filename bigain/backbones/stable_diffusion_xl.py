"""Stable Diffusion XL (Podell et al. 2023, arXiv 2307.01952) from diffusers."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextModelWithProjection

from bigain.backbones.schedule import NoiseSchedule
from bigain.backbones.text import TextEncoder, clip, pack, unpack
from bigain.backbones.text_to_image import TextToImage
from bigain.errors import BiGainError
from bigain.utils import model_folders

NUMBERS = 6  # beside the text: original size, corner of the crop, and target size


class StableDiffusionXL(TextToImage):
    """A text-conditional U-Net on latents with two text encoders, for images of one size.

    A condition is the text [L, C] of both encoders and the pooled text of the second, packed. The
    sizes that the model is told are those of its own images, uncropped.

    Args:
        path: a folder with ``unet/``, ``vae/``, ``scheduler/``, and two each of ``text_encoder/``
            and ``tokenizer/``, as saved by diffusers' StableDiffusionXLPipeline, or a hub id.
        revision: branch, tag or commit on the hub; None for the newest.
    """

    family: ClassVar[str] = "unet"
    component: ClassVar[str] = "unet"
    kind: ClassVar[Any] = UNet2DConditionModel
    suffixes: ClassVar[Sequence[str]] = ("", "_2")

    schedule: NoiseSchedule

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "empty_prompt_is_zero": self._empty_is_zero}

    def unconditional(self) -> Tensor:
        found = super().unconditional()
        return torch.zeros_like(found) if self._empty_is_zero else found

    def predict(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        text, pooled = unpack(condition, *self._parts(self.texts.encoders))
        side = self.latent_shape[-1] * self.autoencoder.factor
        sizes = condition.new_tensor([side, side, 0, 0, side, side])
        output = self.denoiser(
            x.to(self.denoiser.dtype),
            t,
            encoder_hidden_states=text,
            added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes.expand(len(x), -1)},
            return_dict=False,
        )[0]
        return self.schedule.noise(output, x, t)

    def _load_encoders(self, device: torch.device, dtype: torch.dtype) -> list[TextEncoder]:
        return [
            clip(self.checkpoint, device),
            clip(self.checkpoint, device, "_2", CLIPTextModelWithProjection),
        ]

    def _parts(self, encoders: Sequence[TextEncoder]) -> list[tuple[int, ...]]:
        one, two = encoders
        return [(one.length, one.width + two.width), (two.model.config.projection_dim,)]

    def _encode_texts(self, prompts: Sequence[str]) -> Tensor:
        # what comes before each encoder's last layer
        found = [
            e.model(e.tokens(prompts).input_ids, output_hidden_states=True)
            for e in self.texts.encoders
        ]
        text = torch.cat([output.hidden_states[-2] for output in found], -1)
        return pack(text, found[1].text_embeds)

    def _check(self, denoiser: Any, encoders: Sequence[TextEncoder]) -> None:
        config, (one, two) = denoiser.config, encoders
        if config.addition_embed_type != "text_time" or config.time_cond_proj_dim is not None:
            raise BiGainError(
                f"{self.checkpoint.path} is no base model of Stable Diffusion XL: its unet has "
                f"addition_embed_type={config.addition_embed_type} and "
                f"time_cond_proj_dim={config.time_cond_proj_dim}, which must be text_time and "
                "null; for Stable Diffusion 1 or 2 set "
                "model._target_=bigain.backbones.StableDiffusion"
            )
        if one.length != two.length:
            raise BiGainError(
                f"{self.checkpoint.path}: its two text encoders read {one.length} and "
                f"{two.length} tokens, which must be as many; copy both from the same model"
            )
        pooled = config.projection_class_embeddings_input_dim
        self._fit(
            "base model of Stable Diffusion XL",
            ("unet", config.in_channels, "vae", self.autoencoder.channels),
            ("unet", config.cross_attention_dim, "both text encoders", one.width + two.width),
            (
                "the pooled text of unet",
                pooled - NUMBERS * config.addition_time_embed_dim,
                "text_encoder_2",
                two.model.config.projection_dim,
            ),
        )

    @property
    def _empty_is_zero(self) -> bool:
        """Whether the pipeline takes zeros for no text."""
        index = model_folders.config(self.checkpoint.folder / "model_index.json")
        return bool(index.get("force_zeros_for_empty_prompt", True))  # diffusers' default
