"""PixArt-alpha and PixArt-Sigma (Chen et al. 2023, arXiv 2310.00426; 2024, 2403.04692)."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import PixArtTransformer2DModel
from torch import Tensor

from bigain.backbones.schedule import NoiseSchedule
from bigain.backbones.text import TextEncoder, pack, t5, unpack
from bigain.backbones.text_to_image import TextToImage


class PixArt(TextToImage):
    """A DiT that reads T5's text through cross-attention.

    A condition is the text [L, C] and its mask [L], packed. Sizes and aspect ratios, which some
    models are told as well, are those of their own square images.

    Args:
        path: a folder with ``transformer/``, ``vae/``, ``text_encoder/``, ``tokenizer/`` and
            ``scheduler/``, as saved by diffusers' PixArtAlphaPipeline or PixArtSigmaPipeline, or a
            hub id.
        text_length: tokens of a prompt: 120 for PixArt-alpha, 300 for PixArt-Sigma.
        revision: branch, tag or commit on the hub; None for the newest.
    """

    family: ClassVar[str] = "pixart"
    kind: ClassVar[Any] = PixArtTransformer2DModel

    schedule: NoiseSchedule

    def __init__(self, path: str, text_length: int, revision: str | None = None) -> None:
        super().__init__(path, revision)
        self.text_length = text_length

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "text_length": self.text_length}

    def predict(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        text, mask = unpack(condition, *self._parts(self.texts.encoders))
        added: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if self.denoiser.use_additional_conditions:
            side = float(self.latent_shape[-1] * self.autoencoder.factor)
            added["resolution"] = condition.new_full((len(x), 2), side)
            added["aspect_ratio"] = condition.new_ones(len(x), 1)
        output = self.denoiser(
            x.to(self.denoiser.dtype),
            encoder_hidden_states=text,
            encoder_attention_mask=mask,
            timestep=t,
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
        # drop the learned-variance channels
        return self.schedule.noise(output[:, : x.shape[1]], x, t)

    def _load_encoders(self, device: torch.device, dtype: torch.dtype) -> list[TextEncoder]:
        return [t5(self.checkpoint, device, dtype, "", self.text_length, _cleaned)]

    def _parts(self, encoders: Sequence[TextEncoder]) -> list[tuple[int, ...]]:
        (encoder,) = encoders
        return [(encoder.length, encoder.width), (encoder.length,)]

    def _encode_texts(self, prompts: Sequence[str]) -> Tensor:
        (encoder,) = self.texts.encoders
        tokens = encoder.tokens(prompts)
        text = encoder.model(tokens.input_ids, attention_mask=tokens.attention_mask)
        return pack(text.last_hidden_state, tokens.attention_mask)

    def _check(self, denoiser: Any, encoders: Sequence[TextEncoder]) -> None:
        self._fit(
            "PixArt",
            ("transformer", denoiser.config.in_channels, "vae", self.autoencoder.channels),
            ("transformer", denoiser.config.caption_channels, "text_encoder", encoders[0].width),
        )


def _cleaned(prompt: str) -> str:
    """A prompt as diffusers' pipelines pass it on where clean_caption is off."""
    return prompt.lower().strip()
