"""diffusers' UNet2DConditionModel, as in Stable Diffusion (Rombach et al. 2022)."""

from collections.abc import Collection, Iterator
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from bigain.compression.architectures.base import Architecture, Block

TEXT = 77  # length of a text in tokens, as CLIP's encoder returns it
SIZES = 6  # numbers that SDXL takes beside a text: original size, crop, and target size


class UNet(Architecture):
    """Places are downsampling factors of the latent, and text enters through cross-attention.

    SDXL (Podell et al. 2023, arXiv 2307.01952) has no transformer blocks at factor 1, so its
    default is factor 2: 4,096 tokens at 1,024 px. Its ten-layer transformers are at factor 4. What
    it adds to the timestep, a pooled text and sizes, reaches every layer, so its classes share
    nothing.
    """

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
        """The smallest factor that has transformer blocks, where the image has most tokens."""
        places = {block.place for block in self.blocks()}
        return {min(places)} if places else set()

    def tokens_along(self, place: int, side: int) -> int:
        """The side after every stage's downsampling, which rounds up or down by its padding."""
        tokens = _after(self.model.conv_in, side)
        for stage in self.model.down_blocks[: place.bit_length() - 1]:
            (layer,) = stage.downsamplers
            # all others pool, or pad by as much as they lose
            strided = getattr(layer, "use_conv", False) and layer.padding > 0
            tokens = _after(layer.conv, tokens) if strided else tokens // 2
        return tokens

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

        The list is empty if some of them are fused, if their input is not exactly the text, or if
        the text is only a part of what a class gives the model: SDXL takes a pooled text as well,
        and other models add what they make of the text to the timestep.
        """
        config = self.model.config
        if config.dual_cross_attention or config.addition_embed_type:
            return []
        if self.model.encoder_hid_proj is not None:
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

    @property
    def text_width(self) -> int:
        """The channels of a text's embedding as the model takes it."""
        config = self.model.config
        if config.encoder_hid_dim_type in ("text_proj", "text_image_proj"):
            return int(config.encoder_hid_dim)
        return self._attended_width

    @property
    def _attended_width(self) -> int:
        """The channels of what cross-attention attends to."""
        width = self.model.config.cross_attention_dim  # of all stages, or of each
        return int(width if isinstance(width, int) else width[0])

    def random_condition(self, count: int) -> Tensor:
        return self._random(count, TEXT, self.text_width)

    def random_extras(self, count: int) -> dict[str, Any]:
        """The class, and what else is added to the timestep or the text: sizes, texts, images."""
        config, extras = self.model.config, dict[str, Any]()
        kinds = {config.addition_embed_type, config.encoder_hid_dim_type}
        if unknown := kinds & {"image_hint", "ip_image_proj"}:
            raise ValueError(
                f"this U-Net takes images of a kind that cannot be made up ({unknown.pop()} in its "
                "config); take an IP-Adapter off with unload_ip_adapter(), or choose another model"
            )
        if (labels := self._random_classes(count)) is not None:
            extras["class_labels"] = labels
        added = {}
        if kinds & {"image", "image_proj"}:
            added["image_embeds"] = self._random(count, config.encoder_hid_dim)
        elif kinds & {"text_image", "text_image_proj"}:
            added["image_embeds"] = self._random(count, self._attended_width)
        if config.addition_embed_type == "text_image":
            added["text_embeds"] = self._random(count, self._attended_width)
        elif config.addition_embed_type == "text_time":
            width, each = (
                config.projection_class_embeddings_input_dim,
                config.addition_time_embed_dim,
            )
            sizes = min(SIZES, (width - 1) // each)
            added["text_embeds"] = self._random(count, width - sizes * each)
            added["time_ids"] = self._random(count, sizes)
        return {**extras, "added_cond_kwargs": added} if added else extras

    def _random_classes(self, count: int) -> Tensor | None:
        """What the model takes as class_labels, or None if it takes none."""
        config = self.model.config
        kind = config.class_embed_type
        if kind is None and config.num_class_embeds is not None:
            return torch.arange(count, device=self.model.device) % config.num_class_embeds
        if kind == "timestep":
            return self._random(count)
        if kind == "identity":
            return self._random(count, self.model.time_embedding.linear_2.out_features)
        if kind in ("projection", "simple_projection"):
            return self._random(count, config.projection_class_embeddings_input_dim)
        return None

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


def _after(layer: nn.Conv2d, side: int) -> int:
    """The side of what a convolution makes of an input of ``side`` pixels."""
    kernel, stride, padding = layer.kernel_size[0], layer.stride[0], layer.padding[0]
    return (side + 2 * int(padding) - kernel) // stride + 1
