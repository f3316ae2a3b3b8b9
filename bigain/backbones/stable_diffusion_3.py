"""Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv 2403.03206) from diffusers."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from diffusers import SD3Transformer2DModel
from torch import Tensor
from transformers import CLIPTextModelWithProjection

from bigain.backbones.flow_matching import FlowMatching
from bigain.backbones.latents import square
from bigain.backbones.text import TextEncoder, clip, pack, t5, unpack
from bigain.backbones.text_to_image import TextToImage
from bigain.errors import BiGainError


class StableDiffusion3(TextToImage):
    """A joint-attention transformer on latents that predicts velocities.

    A condition is the text of both CLIP encoders [77, C], their pooled texts, and the text of T5
    [L, C'], packed. A pipeline without T5 is given zeros in its place, as in diffusers.

    Args:
        path: a folder with ``transformer/``, ``vae/``, ``scheduler/``, and two or three each of
            ``text_encoder/`` and ``tokenizer/``, as saved by diffusers' StableDiffusion3Pipeline,
            or a hub id.
        text_length: L, the tokens of a prompt that T5 reads.
        revision: branch, tag or commit on the hub; None for the newest.
    """

    family: ClassVar[str] = "sd3"
    kind: ClassVar[Any] = SD3Transformer2DModel
    suffixes: ClassVar[Sequence[str]] = ("", "_2", "_3")
    optional: ClassVar[Sequence[str]] = ("_3",)

    schedule: FlowMatching

    def __init__(self, path: str, text_length: int = 256, revision: str | None = None) -> None:
        super().__init__(path, revision)
        self.text_length = text_length

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "text_length": self.text_length}

    def predict(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        short, pooled, *found = unpack(condition, *self._parts(self.texts.encoders))
        width = self.denoiser.config.joint_attention_dim
        long = found[0] if found else condition.new_zeros(len(x), self.text_length, width)
        output = self.denoiser(
            x.to(self.denoiser.dtype),
            timestep=t,
            encoder_hidden_states=torch.cat([F.pad(short, (0, width - short.shape[-1])), long], 1),
            pooled_projections=pooled,
            return_dict=False,
        )[0]
        predicted: Tensor = output.float()
        return predicted

    def _load_schedule(self, device: torch.device) -> FlowMatching:
        skeleton = self.skeleton()
        side: int = square(self.checkpoint.path, skeleton) // skeleton.config.patch_size
        return FlowMatching.load(self.checkpoint, device, tokens=side**2)

    def _load_encoders(self, device: torch.device, dtype: torch.dtype) -> list[TextEncoder]:
        kind = CLIPTextModelWithProjection
        found = [clip(self.checkpoint, device, suffix, kind) for suffix in self.suffixes[:2]]
        if "_3" in self._suffixes:
            found.append(t5(self.checkpoint, device, dtype, "_3", self.text_length))
        return found

    def _parts(self, encoders: Sequence[TextEncoder]) -> list[tuple[int, ...]]:
        one, two, *long = encoders
        pooled = one.model.config.projection_dim + two.model.config.projection_dim
        short = [(one.length, one.width + two.width), (pooled,)]
        return [*short, *((encoder.length, encoder.width) for encoder in long)]

    def _encode_texts(self, prompts: Sequence[str]) -> Tensor:
        one, two, *long = self.texts.encoders
        # what comes before each encoder's last layer
        found = [
            e.model(e.tokens(prompts).input_ids, output_hidden_states=True) for e in (one, two)
        ]
        parts = [
            torch.cat([output.hidden_states[-2] for output in found], -1),
            torch.cat([output.text_embeds for output in found], -1),
        ]
        for encoder in long:  # it sees the padding, as in training
            parts.append(encoder.model(encoder.tokens(prompts).input_ids).last_hidden_state)
        return pack(*parts)

    def _check(self, denoiser: Any, encoders: Sequence[TextEncoder]) -> None:
        config, (one, two, *long) = denoiser.config, encoders
        if one.length != two.length or one.width + two.width > config.joint_attention_dim:
            raise BiGainError(
                f"{self.checkpoint.path} is no Stable Diffusion 3: its CLIP encoders read "
                f"{one.length} and {two.length} tokens, which must be as many, and give "
                f"{one.width} and {two.width} channels, of which transformer takes "
                f"{config.joint_attention_dim} in all; choose one, and copy all components from it"
            )
        pooled = one.model.config.projection_dim + two.model.config.projection_dim
        self._fit(
            "Stable Diffusion 3",
            ("transformer", config.in_channels, "vae", self.autoencoder.channels),
            ("the pooled text of transformer", config.pooled_projection_dim, "CLIP", pooled),
            *(
                ("transformer", config.joint_attention_dim, "text_encoder_3", encoder.width)
                for encoder in long
            ),
        )
