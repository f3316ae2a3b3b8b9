"""diffusers' FluxTransformer2DModel: FLUX.1 of Black Forest Labs, dev and schnell."""

from inspect import signature
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor

from bigain.compression.architectures.base import Block, Call, Part
from bigain.compression.architectures.transformer import Transformer

TEXT = 512  # length of a text in tokens, as the pipeline pads it
SIDE = 128  # of a latent for 1,024 px, the pipeline's default
PACKED = 2  # latent pixels along a side of a token
TIMESTEPS = 1000  # the model's timestep is a fraction of these


class DoubleBlock(Block):
    """diffusers' FluxTransformerBlock: image and text have weights of their own."""

    def parts(self, site: str) -> tuple[Part, ...]:
        block = self.module
        if site == "mlp":
            return (Part(block.ff, block.ff.net[1]),)
        if site == "cross_attention":
            return ()
        norms = ("norm_q", "norm_k", "norm_added_q", "norm_added_k")
        attention = block.attn
        return (Part(attention, attention.norm_q, joint=True, mask_axes=4, rotary=norms),)


class SingleBlock(Block):
    """diffusers' FluxSingleTransformerBlock: text and image are one sequence with equal weights.

    Its MLP runs beside attention, on both, and is no site.
    """

    def parts(self, site: str) -> tuple[Part, ...]:
        if site != "self_attention":
            return ()
        attention, norms = self.module.attn, ("norm_q", "norm_k")
        return (Part(attention, attention.norm_q, True, joint=True, mask_axes=4, rotary=norms),)


class Flux(Transformer):
    """A transformer of joint attention with rotary positions; double blocks, and then single ones.

    Indices run over both. Of FLUX.1's 57 blocks, 2 to 11 and 14 to 23 are compressed by default,
    the last five of which are single ones.

    Sizes are those of a latent as the autoencoder makes it, although the model takes it packed,
    [B, tokens, 4c]; its grid is read from ``img_ids``.
    """

    denoiser = FluxTransformer2DModel
    arguments = ("hidden_states", "timestep", "encoder_hidden_states")

    def blocks(self) -> list[Block]:
        double, single = self.model.transformer_blocks, self.model.single_transformer_blocks
        first: list[Block] = [DoubleBlock(i, block) for i, block in enumerate(double)]
        return first + [SingleBlock(i, block) for i, block in enumerate(single, len(double))]

    def tokens_along(self, place: int, side: int) -> int:
        return side // PACKED

    def read(self, args: tuple, kwargs: dict[str, Any]) -> Call:
        latent, timestep, condition = super().read(args, kwargs)
        return Call(latent, torch.as_tensor(timestep).float() * TIMESTEPS, condition)

    def size(self, args: tuple, kwargs: dict[str, Any]) -> tuple[int, int]:
        ids = self._signature.read("img_ids", args, kwargs)
        if ids is None:
            raise TypeError(
                "FluxTransformer2DModel.forward was called without img_ids, which say how its "
                "tokens lie on the image; pass those of FluxPipeline._prepare_latent_image_ids"
            )
        rows, columns = _rectangle(ids)
        return PACKED * rows, PACKED * columns

    def inputs(self, latent: Tensor, timestep: Tensor, condition: Tensor) -> dict[str, Tensor]:
        """The keyword arguments of a forward, for latents [B, c, h, w] that are not packed yet."""
        rows, columns = (side // PACKED for side in latent.shape[-2:])
        fraction = timestep.to(latent.dtype) / TIMESTEPS
        # on the meta device, positions would have no values to read the grid from
        device = "cpu" if latent.is_meta else latent.device
        return {
            **super().inputs(patches(latent), fraction, condition),
            "img_ids": positions(rows, columns).to(device, latent.dtype),
            "txt_ids": torch.zeros(condition.shape[1], 3, device=device, dtype=latent.dtype),
        }

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """The shape (c, h, w) of a latent for 1,024 px, or of ``sample_size`` in the config.

        FLUX.1's own config names no size.
        """
        config = self.model.config
        side = config.get("sample_size") or SIDE
        return config.in_channels // PACKED**2, side, side

    def random_condition(self, count: int) -> Tensor:
        return self._random(count, TEXT, self.model.config.joint_attention_dim)

    def random_extras(self, count: int) -> dict[str, Any]:
        """The pooled text and, of models that are distilled from guidance, its scale."""
        config = self.model.config
        extras = {"pooled_projections": self._random(count, config.pooled_projection_dim)}
        if config.guidance_embeds:
            device, dtype = self.model.device, self.model.dtype
            extras["guidance"] = torch.full((count,), 3.5, device=device, dtype=dtype)
        return extras


def patches(latents: Tensor) -> Tensor:
    """Latents [B, c, h, w] as tokens [B, N, 4c], one for each patch, row by row."""
    folded = latents.unflatten(-1, (-1, PACKED)).unflatten(-3, (-1, PACKED))
    return folded.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpatched(tokens: Tensor, height: int, width: int) -> Tensor:
    """The latents [B, c, height, width] of which `patches` makes these tokens."""
    folded = tokens.unflatten(2, (-1, PACKED, PACKED))
    folded = folded.unflatten(1, (height // PACKED, width // PACKED))  # [B, H, W, c, 2, 2]
    return folded.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def positions(rows: int, columns: int) -> Tensor:
    """The ``img_ids`` of an image, [rows * columns, 3]: 0, the row and the column."""
    ids = torch.zeros(rows, columns, 3)
    ids[..., 1] = torch.arange(rows).unsqueeze(1)
    ids[..., 2] = torch.arange(columns)
    return ids.flatten(0, 1)


WHY_UNCOMPILED: dict[str, Any] = {
    "reason": "Flux's grid of tokens is read from the values of img_ids: compile without "
    "fullgraph, or each block by compile_repeated_blocks(fullgraph=True)"
}
if "reason" not in signature(torch.compiler.disable).parameters:  # torch before 2.8
    WHY_UNCOMPILED.clear()


@torch.compiler.disable(**WHY_UNCOMPILED)
def _rectangle(ids: Tensor) -> tuple[int, int]:
    """The rows and columns of the tokens whose positions are ``ids``, [S, 3] or [1, S, 3].

    Raises:
        ValueError: if these are not all tokens of one rectangle, row by row.
    """
    places = (ids[0] if ids.ndim == 3 else ids).detach().float().cpu()
    columns = max(int((places[:, 1] == places[:1, 1]).sum()), 1)
    rows = len(places) // columns
    whole = positions(rows, columns)
    if len(whole) != len(places) or not torch.equal(places - places[:1], whole):
        raise ValueError(
            f"the {len(places)} positions in img_ids are not those of one whole rectangle, row by "
            "row, on which a compressor needs the tokens to lie; pipelines that add the tokens of "
            "a reference image, such as FluxKontextPipeline, run uncompressed alone: call "
            "bigain.remove(pipe), or leave the reference out"
        )
    return rows, columns
