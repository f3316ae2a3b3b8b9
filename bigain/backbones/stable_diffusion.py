"""Stable Diffusion 1 and 2 (Rombach et al. 2022) from diffusers."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from bigain.backbones.schedule import NoiseSchedule
from bigain.backbones.text import TextEncoder, clip
from bigain.backbones.text_to_image import TextToImage
from bigain.errors import BiGainError


class StableDiffusion(TextToImage):
    """A text-conditional U-Net on latents that predicts noise or v.

    A condition is the text encoder's last hidden state, [L, C].

    Args:
        path: a folder with ``unet/``, ``vae/``, ``text_encoder/``, ``tokenizer/`` and
            ``scheduler/``, as saved by diffusers' StableDiffusionPipeline, or a hub id.
        revision: branch, tag or commit on the hub; None for the newest.
    """

    family: ClassVar[str] = "unet"
    component: ClassVar[str] = "unet"
    kind: ClassVar[Any] = UNet2DConditionModel

    schedule: NoiseSchedule

    def predict(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        output = self.denoiser(
            x.to(self.denoiser.dtype), t, encoder_hidden_states=condition, return_dict=False
        )[0]
        return self.schedule.noise(output, x, t)

    def _load_encoders(self, device: torch.device, dtype: torch.dtype) -> list[TextEncoder]:
        return [clip(self.checkpoint, device)]

    def _parts(self, encoders: Sequence[TextEncoder]) -> list[tuple[int, ...]]:
        (encoder,) = encoders
        return [(encoder.length, encoder.width)]

    def _row_shape(self, encoders: Sequence[TextEncoder]) -> tuple[int, ...]:
        (text,) = self._parts(encoders)
        return text

    def _encode_texts(self, prompts: Sequence[str]) -> Tensor:
        (encoder,) = self.texts.encoders
        tokens = encoder.tokens(prompts)
        # only some encoders were trained with the padding masked
        masked = getattr(encoder.model.config, "use_attention_mask", False)
        mask = tokens.attention_mask if masked else None
        found: Tensor = encoder.model(tokens.input_ids, attention_mask=mask).last_hidden_state
        return found

    def _check(self, denoiser: Any, encoders: Sequence[TextEncoder]) -> None:
        takes = (denoiser.config.in_channels, denoiser.config.cross_attention_dim)
        given = (self.autoencoder.channels, encoders[0].width)
        if takes != given or denoiser.config.addition_embed_type is not None:
            raise BiGainError(
                f"{self.checkpoint.path} is no text-to-image model of Stable Diffusion 1 or 2: "
                f"unet takes latent and text channels {takes}, but vae and text_encoder give "
                f"{given}; choose one, and copy all components from it"
            )
