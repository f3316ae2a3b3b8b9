"""Small random denoisers of today's families, with inputs to try them on."""

from typing import Any

import torch
from diffusers import (
    FluxTransformer2DModel,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    UNet2DConditionModel,
)
from torch import Tensor

from bigain.compression import architecture_of

FAMILIES = ("sdxl", "pixart", "sd3", "flux")
SIDE = 16  # of a latent, whose pixels are half as many as an image's
WIDTHS = (32, 24)  # channels of two CLIP encoders
POOLED = (16, 20)  # of their pooled texts
LONG = 28  # of T5
WORDS = 20


def published(family: str, **settings: Any) -> Any:
    """A denoiser of random weights for latents of `SIDE` x `SIDE`, 8 x 8 tokens at most.

    Args:
        settings: other settings of its config, which has the keys of the published ones.
    """
    torch.manual_seed(0)
    kind, usual = _DENOISERS[family]
    return kind(**{**usual, **settings}).eval()


def denoiser(family: str, **settings: Any) -> Any:
    """The same with its size in its config, which FLUX.1's does not name."""
    model = published(family, **settings)
    if family == "flux":
        model.register_to_config(sample_size=SIDE)
    return model


def inputs(model: Any, count: int) -> dict[str, Any]:
    """Random arguments of a forward, with texts of `WORDS` tokens, which keeps tests fast."""
    made = architecture_of(model).random_inputs(count)
    made["encoder_hidden_states"] = made["encoder_hidden_states"][:, :WORDS]
    if "txt_ids" in made:
        made["txt_ids"] = made["txt_ids"][:WORDS]
    return made


class Tiny:
    """A model of random weights and inputs of two samples at different timesteps."""

    def __init__(self, family: str, **settings: Any) -> None:
        self.model = denoiser(family, **settings).double()
        self.architecture = architecture_of(self.model)
        torch.manual_seed(1)
        self.inputs = inputs(self.model, 2)
        time = self.architecture.arguments[1]
        self.inputs[time] = self.inputs[time] * torch.tensor([0.5, 1.5])

    @torch.no_grad()
    def __call__(self, **changes: Any) -> Tensor:
        result: Tensor = self.model(**{**self.inputs, **changes}).sample
        return result

    def one(self, index: int) -> dict[str, Any]:
        """The inputs of one sample."""

        def of(name: str, value: Any) -> Any:
            if isinstance(value, dict):
                return {key: of(key, inner) for key, inner in value.items()}
            return value if name in ("img_ids", "txt_ids") else value[index : index + 1]

        return {name: of(name, value) for name, value in self.inputs.items()}


def state(model: torch.nn.Module) -> list[tuple]:
    """What `bigain.compress` touches, of every module."""
    names = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_always_called")
    return [
        (id(m.__dict__.get("forward")), *(len(getattr(m, name)) for name in names))
        for m in model.modules()
    ]


_DENOISERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "sdxl": (
        UNet2DConditionModel,
        {
            "sample_size": SIDE,
            "block_out_channels": (8, 16, 16),
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            "layers_per_block": 1,
            "transformer_layers_per_block": (1, 2, 3),
            "attention_head_dim": (1, 2, 2),
            "use_linear_projection": True,
            "norm_num_groups": 4,
            "cross_attention_dim": sum(WIDTHS),
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": POOLED[1] + 6 * 8,
        },
    ),
    "pixart": (
        PixArtTransformer2DModel,
        {
            "sample_size": SIDE,
            "num_attention_heads": 3,
            "attention_head_dim": 8,
            "num_layers": 3,
            "cross_attention_dim": 24,
            "caption_channels": LONG,
        },
    ),
    "sd3": (
        SD3Transformer2DModel,
        {
            "sample_size": SIDE,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 3,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "joint_attention_dim": LONG + sum(WIDTHS),
            "caption_projection_dim": 16,
            "pooled_projection_dim": sum(POOLED),
            "pos_embed_max_size": 2 * SIDE,
            "dual_attention_layers": (0, 1),
            "qk_norm": "rms_norm",
        },
    ),
    "flux": (
        FluxTransformer2DModel,
        {
            "in_channels": 16,
            "num_layers": 2,
            "num_single_layers": 2,
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "joint_attention_dim": LONG,
            "pooled_projection_dim": WIDTHS[0],
            "guidance_embeds": True,
            "axes_dims_rope": (2, 2, 4),
        },
    ),
}
