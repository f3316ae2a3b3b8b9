"""diffusers' UNet2DConditionModel, as in Stable Diffusion (Rombach et al. 2022)."""

from collections.abc import Collection, Iterator

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from bigain.compression.architectures.base import Architecture, Block

TEXT = 77  # length of a text in tokens, as CLIP's encoder returns it


class UNet(Architecture):
    """Places are downsampling factors of the latent, and text enters through cross-attention."""

    denoiser = UNet2DConditionModel
    component = "unet"
    arguments = ("sample", "timestep", "encoder_hidden_states")
    places = "downsampling factors"

    def blocks(self) -> list[Block]:
        return [
            Block(factor, module)
            for factor, stage in self._stages()
            for module in stage.modules()
            if isinstance(module, BasicTransformerBlock)
        ]

    def default_places(self) -> set[int]:
        """The smallest factor that has transformer blocks."""
        places = {block.place for block in self.blocks()}
        return {min(places)} if places else set()

    def token_side(self, place: int) -> int:
        return place

    def first_block(self) -> Block | None:
        """The block whose self-attention comes before the first cross-attention, if any."""
        before = self.before_condition()
        return next((b for b in self.blocks() if b.site("self_attention") in before), None)

    def before_condition(self) -> list[nn.Module]:
        """Modules before the first cross-attention; none if the timestep carries text or class."""
        model, config = self.model, self.model.config
        carried = config.addition_embed_type or config.class_embed_type
        if carried or model.class_embedding is not None:
            return []
        found: list[nn.Module] = [model.conv_in]
        for stage in model.down_blocks:
            attentions = getattr(stage, "attentions", None)
            if not attentions:
                found += [*stage.resnets, *(stage.downsamplers or [])]
                continue
            transformer = attentions[0]
            if not isinstance(transformer, Transformer2DModel):
                return found
            block = transformer.transformer_blocks[0]
            found += [stage.resnets[0], transformer.norm, transformer.proj_in]
            if block.norm_type == "layer_norm" and not block.only_cross_attention:
                found += [block.norm1, block.attn1]
            return found
        return found

    def condition_projections(self) -> list[nn.Linear]:
        """Projections of text to keys and values.

        The list is empty if some of them are fused, or their input is not exactly the text.
        """
        if self.model.config.dual_cross_attention or self.model.encoder_hid_proj is not None:
            return []
        found: list[nn.Linear] = []
        for block in self.blocks():
            attention = block.module.attn2
            if attention is None:
                return []
            plain = type(attention.processor) is AttnProcessor2_0 and not attention.norm_cross
            layers = (attention.to_k, attention.to_v)
            if not plain or any(type(layer) is not nn.Linear for layer in layers):
                return []
            found += layers
        return found

    def random_condition(self, count: int) -> Tensor:
        width = self.model.config.cross_attention_dim
        device, dtype = self.model.device, self.model.dtype
        return torch.randn(count, TEXT, width, device=device, dtype=dtype)

    def null_condition(self) -> Tensor:
        """Random as well, because the embedding of an empty text depends on the text encoder."""
        return self.random_condition(1)

    def areas(self) -> Iterator[tuple[int, nn.Module]]:
        yield 1, self.model.conv_in
        yield 1, self.model.conv_out
        for factor, stage in self._stages():
            for name, children in stage.named_children():
                # a resampling convolution works at its output's resolution
                here = {"downsamplers": 2 * factor, "upsamplers": factor // 2}.get(name, factor)
                for module in children if isinstance(children, nn.ModuleList) else ():
                    yield here, module

    def groups(self, compressed: Collection[int]) -> list[tuple[str, set[int]]]:
        """One line per factor, whether or not it is compressed."""
        factors = sorted({place for place, _ in self.areas()})
        return [(f"1/{factor} ({self.tokens(factor)} tokens)", {factor}) for factor in factors]

    def _stages(self) -> Iterator[tuple[int, nn.Module]]:
        """The down, middle and up stages in forward order, each with its downsampling factor."""
        model = self.model
        deepest = 2 ** (len(model.down_blocks) - 1)
        yield from ((2**i, stage) for i, stage in enumerate(model.down_blocks))
        if model.mid_block is not None:
            yield deepest, model.mid_block
        yield from ((deepest // 2**i, stage) for i, stage in enumerate(model.up_blocks))
