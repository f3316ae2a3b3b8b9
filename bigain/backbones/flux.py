"""FLUX.1 (Black Forest Labs 2024) from diffusers."""

from collections.abc import Sequence
from copy import copy
from typing import Any, ClassVar

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from bigain.backbones.base import Subjects
from bigain.backbones.flow_matching import FlowMatching
from bigain.backbones.text import TextEncoder, clip, pack, t5, unpack
from bigain.backbones.text_to_image import TextToImage
from bigain.compression.architectures.flux import PACKED, patches, positions, unpatched
from bigain.errors import BiGainError

UNGUIDED = 1.0


class Flux(TextToImage):
    """A joint-attention transformer on patches of latents that predicts velocities.

    A condition is the text of T5 [L, C], CLIP's pooled text and, for a model that was distilled
    from a guided one, the guidance that it is told, packed.

    Args:
        path: a folder with ``transformer/``, ``vae/``, ``scheduler/``, and two each of
            ``text_encoder/`` and ``tokenizer/``, as saved by diffusers' FluxPipeline, or a hub id.
        text_length: L, the tokens of a prompt that T5 reads.
        sample_size: the side of the latents, which no config names.
        distilled_guidance: the guidance that a distilled model is told when it generates; when
            it classifies, it is told 1. Other models ignore it.
        revision: branch, tag or commit on the hub; None for the newest.
    """

    family: ClassVar[str] = "flux"
    kind: ClassVar[Any] = FluxTransformer2DModel
    suffixes: ClassVar[Sequence[str]] = ("", "_2")

    schedule: FlowMatching

    def __init__(
        self,
        path: str,
        text_length: int = 512,
        sample_size: int = 128,
        distilled_guidance: float = 3.5,
        revision: str | None = None,
    ) -> None:
        if sample_size < PACKED or sample_size % PACKED:
            raise BiGainError(
                f"model.sample_size must be a multiple of {PACKED}, as tokens are patches of that "
                f"side; got {sample_size}"
            )
        super().__init__(path, revision)
        self.text_length, self.sample_size = text_length, sample_size
        self.distilled_guidance = distilled_guidance

    def identity(self) -> dict[str, Any]:
        settings = ("text_length", "sample_size", "distilled_guidance")
        return {**super().identity(), **{name: getattr(self, name) for name in settings}}

    def skeleton(self) -> Any:
        found = copy(super().skeleton())  # which all checkpoints of the architecture share
        found.register_to_config(sample_size=self.sample_size)
        return found

    def condition_images(self, dataset: Subjects, indices: Sequence[int]) -> Tensor:
        return self._told(super().condition_images(dataset, indices))

    def unconditional(self) -> Tensor:
        return self._told(super().unconditional())

    def predict(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        text, pooled, guidance = unpack(condition, *self._parts(self.texts.encoders))
        dtype, (height, width) = self.denoiser.dtype, x.shape[-2:]
        output = self.denoiser(
            patches(x).to(dtype),
            timestep=t.to(dtype) / len(self.schedule),
            guidance=guidance if self.denoiser.config.guidance_embeds else None,
            pooled_projections=pooled,
            encoder_hidden_states=text,
            txt_ids=text.new_zeros(text.shape[1], 3),
            img_ids=positions(height // PACKED, width // PACKED).to(x.device, dtype),
            return_dict=False,
        )[0]
        return unpatched(output, height, width).float()

    def _told(self, condition: Tensor) -> Tensor:
        """Conditions [B, n] whose last number, the guidance, is the one for generation."""
        guidance = condition.new_full((len(condition), 1), self.distilled_guidance)
        return torch.cat([condition[:, :-1], guidance], 1)

    def _load_schedule(self, device: torch.device) -> FlowMatching:
        tokens = (self.sample_size // PACKED) ** 2
        return FlowMatching.load(self.checkpoint, device, tokens=tokens)

    def _load_encoders(self, device: torch.device, dtype: torch.dtype) -> list[TextEncoder]:
        return [
            clip(self.checkpoint, device),
            t5(self.checkpoint, device, dtype, "_2", self.text_length),
        ]

    def _parts(self, encoders: Sequence[TextEncoder]) -> list[tuple[int, ...]]:
        short, long = encoders
        return [(long.length, long.width), (short.width,), ()]

    def _encode_texts(self, prompts: Sequence[str]) -> Tensor:
        short, long = self.texts.encoders
        pooled = short.model(short.tokens(prompts).input_ids).pooler_output
        text = long.model(long.tokens(prompts).input_ids).last_hidden_state
        return pack(text, pooled, pooled.new_full((len(pooled), 1), UNGUIDED))

    def _side(self, denoiser: Any) -> int:
        return self.sample_size

    def _check(self, denoiser: Any, encoders: Sequence[TextEncoder]) -> None:
        config, (short, long) = denoiser.config, encoders
        given = PACKED**2 * self.autoencoder.channels
        self._fit(
            "Flux",
            ("transformer", config.in_channels, "vae, in patches,", given),
            ("transformer", config.joint_attention_dim, "text_encoder_2", long.width),
            ("the pooled text of transformer", config.pooled_projection_dim, "CLIP", short.width),
        )
