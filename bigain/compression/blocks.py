"""How diffusers' denoisers are built: their transformer blocks, and which of them to compress."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from diffusers import DiTTransformer2DModel, UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import AttnProcessor2_0
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn
from torch._dynamo.eval_frame import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

Denoiser: TypeAlias = UNet2DConditionModel | DiTTransformer2DModel

# The ten of DiT-XL/2's 28 blocks that the paper's scripts compress.
DIT_XL2_BLOCKS = frozenset({1, 2, 3, 4, 5, 7, 8, 9, 10, 11})


def find_denoiser(model: Any) -> Denoiser:
    """The U-Net or DiT that ``model`` is, wraps or holds.

    Raises:
        TypeError: if there is none.
        ValueError: if it was compiled ahead of time.
    """
    held = [model, getattr(model, "unet", None), getattr(model, "transformer", None)]
    for candidate in map(unwrap, held):
        if isinstance(candidate, Denoiser):
            return candidate
    given = type(model).__name__
    if names := [type(unwrap(part)).__name__ for part in held[1:] if part is not None]:
        given += f" with {' and '.join(names)}"
    raise TypeError(
        "compress takes a diffusers UNet2DConditionModel, a DiTTransformer2DModel or a pipeline "
        f"holding one, got {given}"
    )


def unwrap(model: Any) -> Any:
    """The module inside what torch.compile, DistributedDataParallel and PEFT make of it."""
    while True:
        if isinstance(model, DistributedDataParallel):
            model = model.module
        elif isinstance(model, OptimizedModule):
            if type(model.forward).__name__ == "AOTCompiledModel":
                raise ValueError(
                    "this model was compiled ahead of time and takes no compressor; give compress "
                    "the model itself, and compile it with torch.compile"
                )
            model = model._orig_mod
        elif isinstance(model, nn.Module) and hasattr(model, "get_base_model"):  # a PeftModel
            model = model.get_base_model()  # type: ignore[operator]
        else:
            return model


def is_compiled(model: nn.Module) -> bool:
    """Whether `nn.Module.compile` was called on it."""
    return model._compiled_call_impl is not None


@dataclass(frozen=True)
class Block:
    """A transformer block, where it is and how the latent relates to its tokens."""

    place: int  # U-Net: downsampling factor of the latent; DiT: index
    module: BasicTransformerBlock
    side: int  # latent pixels a token spans


def has_levels(model: Denoiser) -> bool:
    """Whether places are a U-Net's downsampling factors, rather than a DiT's block indices."""
    return not isinstance(model, DiTTransformer2DModel)


def transformer_blocks(model: Denoiser) -> list[Block]:
    """Every transformer block in forward order."""
    if isinstance(model, DiTTransformer2DModel):
        patch = model.config.patch_size
        return [Block(i, block, patch) for i, block in enumerate(model.transformer_blocks)]

    def inside(stage: nn.Module, factor: int) -> Iterator[Block]:
        for module in stage.modules():
            if isinstance(module, BasicTransformerBlock):
                yield Block(factor, module, factor)

    down, up = list(model.down_blocks), list(model.up_blocks)
    deepest = 2 ** (len(down) - 1)
    stages = [(stage, 2**i) for i, stage in enumerate(down)]
    if model.mid_block is not None:
        stages.append((model.mid_block, deepest))
    stages += [(stage, deepest // 2**i) for i, stage in enumerate(up)]
    return [block for stage, factor in stages for block in inside(stage, factor)]


def default_places(model: Denoiser, all_blocks: list[Block]) -> set[int]:
    """Places compressed when none are named."""
    if isinstance(model, DiTTransformer2DModel):
        depth = len(all_blocks)
        return {b.place for b in all_blocks if round(b.place * 28 / depth) in DIT_XL2_BLOCKS}
    return {min(b.place for b in all_blocks)} if all_blocks else set()


def select_blocks(model: Denoiser, blocks: str | Sequence[int]) -> list[Block]:
    """The blocks to compress; ValueError when a named one does not exist or none is left."""
    every = transformer_blocks(model)
    what = "downsampling factors" if has_levels(model) else "block indices"
    present = sorted({b.place for b in every})
    if blocks == "all":
        chosen = set(present)
    elif blocks == "default":
        chosen = default_places(model, every)
    elif isinstance(blocks, str):
        raise ValueError(f"blocks must be default, all or a list of {what}, got {blocks!r}")
    else:
        chosen = set(blocks)
        if missing := sorted(chosen - set(present)):
            raise ValueError(f"blocks {missing} do not exist; this model's {what}: {present}")
    if not chosen:
        raise ValueError(
            f"blocks={blocks!r} leaves nothing to compress; this model's {what}: {present}"
        )
    return [b for b in every if b.place in chosen]


def first_block(model: Denoiser) -> nn.Module | None:
    """The transformer block whose input does not depend on the class or text; None without one."""
    if isinstance(model, DiTTransformer2DModel):
        return model.transformer_blocks[0]
    before = before_text(model)
    return next((b.module for b in transformer_blocks(model) if b.module.attn1 in before), None)


def before_text(model: Denoiser) -> list[nn.Module]:
    """A U-Net's modules up to its first cross-attention, each run once a forward; none for a DiT.

    None either for a U-Net that mixes text or class with the timestep.
    """
    if isinstance(model, DiTTransformer2DModel):
        return []
    config = model.config
    if config.addition_embed_type or config.class_embed_type or model.class_embedding is not None:
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


def text_projections(model: Denoiser) -> list[nn.Linear]:
    """Projections of text to keys and values; empty if some see less or more, or are fused."""
    if isinstance(model, DiTTransformer2DModel):
        return []
    if model.config.dual_cross_attention or model.encoder_hid_proj is not None:
        return []
    found: list[nn.Linear] = []
    for attention in (b.module.attn2 for b in transformer_blocks(model)):
        if attention is None:
            return []
        plain = type(attention.processor) is AttnProcessor2_0 and not attention.norm_cross
        layers = (attention.to_k, attention.to_v)
        if not plain or any(type(layer) is not nn.Linear for layer in layers):
            return []
        found += layers
    return found


def random_inputs(
    model: Denoiser,
    batch_size: int = 1,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """Arguments of a forward: a latent of the model's own size, a timestep, a text or a class."""
    config, side = model.config, model.config.sample_size
    settings: dict[str, Any] = {"device": device, "dtype": dtype}
    sample = torch.randn(batch_size, config.in_channels, side, side, **settings)
    t = torch.full((batch_size,), 500, dtype=torch.int64, device=device)
    if isinstance(model, DiTTransformer2DModel):
        return {"hidden_states": sample, "timestep": t, "class_labels": torch.zeros_like(t)}
    text = torch.randn(batch_size, 77, config.cross_attention_dim, **settings)
    return {"sample": sample, "timestep": t, "encoder_hidden_states": text}


def tokens(model: Denoiser, place: int) -> int:
    """Tokens at a place, for a latent of the model's own size."""
    is_dit = isinstance(model, DiTTransformer2DModel)
    side = model.config.patch_size if is_dit else place
    return (-(-model.config.sample_size // side)) ** 2


def areas(
    model: Denoiser,
) -> Iterator[tuple[int, nn.Module]]:
    """Modules that lie at one place as a whole, none inside another."""
    if isinstance(model, DiTTransformer2DModel):
        yield from ((block.place, block.module) for block in transformer_blocks(model))
        return
    yield 1, model.conv_in
    yield 1, model.conv_out
    deepest = 2 ** (len(model.down_blocks) - 1)
    stages = [(stage, 2**i) for i, stage in enumerate(model.down_blocks)]
    stages += [(model.mid_block, deepest)] if model.mid_block is not None else []
    stages += [(stage, deepest // 2**i) for i, stage in enumerate(model.up_blocks)]
    for stage, factor in stages:
        for name, children in stage.named_children():
            # a sampler's convolution works at the resolution that it leads to
            here = {"downsamplers": 2 * factor, "upsamplers": factor // 2}.get(name, factor)
            for module in children if isinstance(children, nn.ModuleList) else ():
                yield here, module
