"""Multiply-add counts of one evaluation, on the meta device: no weights, no arithmetic."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiTTransformer2DModel, UNet2DConditionModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bigain.attach import SITES, compress
from bigain.blocks import transformer_blocks
from bigain.compressors import Compressor, Plan
from bigain.compressors.tokens import DataDependentSizeError

# Where operations are spent: sites of transformer blocks, convolutions, all other matrix products
# (conditioning, projections into and out of blocks), and the compressor's decisions.
KINDS = (*SITES, "convolution", "other", "matching")
_CONVOLUTION = torch.ops.aten.convolution

Place = int | None


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one forward at batch 1 (a multiply-add counts as two).

    Attributes:
        total: everything, matching included.
        matching: what the compressor spends on its decisions.
        breakdown: the total by place and kind. A place is a U-Net's downsampling factor or the
            index of a DiT's block, and None for what lies outside; the kinds are `KINDS`.
    """

    total: int
    matching: int
    breakdown: Mapping[tuple[Place, str], int]


def count(
    model: DiTTransformer2DModel | UNet2DConditionModel,
    compressor: Compressor | None = None,
    **where: Any,
) -> Flops | None:
    """Count with torch's FlopCounterMode, which counts matrix products, convolutions and attention.

    Args:
        model: only its config is used.
        compressor: on the model, or None.
        where: ``blocks`` and ``sites`` of :func:`bigain.compress`.

    Returns:
        The count, or None if it depends on the data (ABM with a threshold).
    """
    with torch.device("meta"):
        skeleton = type(model).from_config(model.config).eval()
        inputs = random_inputs(skeleton)
    matching: dict[Place, Counter] = defaultdict(Counter)
    place: Place = None

    def counted(chosen: Compressor, *arguments: Any) -> Plan:
        with FlopCounterMode(display=False) as own:
            plan = chosen.plan(*arguments)
        matching[place].update(own.get_flop_counts().get("Global", {}))
        return plan

    def entering(here: int) -> Any:
        def hook(*_: Any) -> None:
            nonlocal place
            place = here

        return hook

    for block in transformer_blocks(skeleton):  # before compress, whose hooks plan
        block.module.register_forward_pre_hook(entering(block.place))
    with torch.no_grad(), FlopCounterMode(display=False) as every:
        if compressor is None:
            skeleton(**inputs)
        else:
            with compress(skeleton, compressor, **where) as attachment:
                attachment.planner = counted
                try:
                    skeleton(**inputs)
                except DataDependentSizeError:
                    return None
    spent = sum(sum(operations.values()) for operations in matching.values())
    breakdown = _breakdown(skeleton, every.get_flop_counts(), matching)
    return Flops(every.get_total_flops(), spent, breakdown)


def random_inputs(
    model: DiTTransformer2DModel | UNet2DConditionModel,
    batch_size: int = 1,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, torch.Tensor]:
    """Arguments of a forward: a latent of the model's own size, a timestep, a text or a class."""
    config, side = model.config, model.config.sample_size
    settings: dict[str, Any] = {"device": device, "dtype": dtype}
    sample = torch.randn(batch_size, config.in_channels, side, side, **settings)
    t = torch.full((batch_size,), 500, dtype=torch.int64, device=device)
    if isinstance(model, DiTTransformer2DModel):
        return {"hidden_states": sample, "timestep": t, "class_labels": torch.zeros_like(t)}
    text = torch.randn(batch_size, 77, config.cross_attention_dim, **settings)
    return {"sample": sample, "timestep": t, "encoder_hidden_states": text}


def tokens(model: DiTTransformer2DModel | UNet2DConditionModel, place: int) -> int:
    """Tokens at a place, for a latent of the model's own size."""
    is_dit = isinstance(model, DiTTransformer2DModel)
    side = model.config.patch_size if is_dit else place
    return (-(-model.config.sample_size // side)) ** 2


def _breakdown(
    model: DiTTransformer2DModel | UNet2DConditionModel,
    counts: dict[str, dict[Any, int]],
    matching: Mapping[Place, Counter],
) -> dict[tuple[Place, str], int]:
    """By place and kind; whatever no site and no matching claims is convolution or other."""
    names = {module: f"{type(model).__name__}.{name}" for name, module in model.named_modules()}
    parts: dict[tuple[Place, str], int] = defaultdict(int)
    left: dict[Place, Counter] = defaultdict(Counter)
    left[None].update(counts["Global"])

    def spent(module: nn.Module) -> dict[Any, int]:
        return counts.get(names[module], {})

    def move(operations: Mapping[Any, int], place: Place, kind: str) -> None:
        left[place].subtract(operations)
        parts[place, kind] += sum(operations.values())

    for here, module in _areas(model):
        left[here].update(spent(module))
        left[None].subtract(spent(module))
    for block in transformer_blocks(model):
        for site, attribute in SITES.items():
            if (found := getattr(block.module, attribute)) is not None:
                move(spent(found), block.place, site)
    for place, operations in matching.items():
        move(operations, place, "matching")
    for place, operations in left.items():
        parts[place, "convolution"] += operations.pop(_CONVOLUTION, 0)
        parts[place, "other"] += sum(operations.values())
    return dict(parts)


def _areas(
    model: DiTTransformer2DModel | UNet2DConditionModel,
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
