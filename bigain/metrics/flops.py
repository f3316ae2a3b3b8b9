"""Multiply-add counts of one evaluation, on the meta device: no weights, no arithmetic."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiTTransformer2DModel, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from bigain.attach import compress
from bigain.compressors import Compressor, Plan
from bigain.compressors.tokens import DataDependentSizeError


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one forward at batch 1 (a multiply-add counts as two).

    Attributes:
        total: everything, matching included.
        matching: what the compressor spends on its decisions.
    """

    total: int
    matching: int


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
        inputs = _inputs(skeleton)
    matching = 0

    def counted(chosen: Compressor, *arguments: Any) -> Plan:
        nonlocal matching
        with FlopCounterMode(display=False) as own:
            plan = chosen.plan(*arguments)
        matching += own.get_total_flops()
        return plan

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
    return Flops(every.get_total_flops(), matching)


def _inputs(model: DiTTransformer2DModel | UNet2DConditionModel) -> dict[str, torch.Tensor]:
    side = model.config.sample_size
    sample = torch.empty(1, model.config.in_channels, side, side)
    t = torch.zeros(1, dtype=torch.int64)
    if isinstance(model, DiTTransformer2DModel):
        return {"hidden_states": sample, "timestep": t, "class_labels": t}
    text = torch.empty(1, 77, model.config.cross_attention_dim)
    return {"sample": sample, "timestep": t, "encoder_hidden_states": text}
