"""What an evaluation of each family costs in FLOPs, and what compressors save; nothing is timed."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig

from bigain.benchmarks.forwards import skeleton_of
from bigain.benchmarks.methods import Method, methods
from bigain.benchmarks.report import Report
from bigain.compression import architecture_of
from bigain.profiling.flops import Flops, count

PIXELS = 8  # along a side of a latent's pixel, in all of these models
NOTE = (
    "GFLOPs of one evaluation at batch 1 (a multiply-add counts as two), and the share of them in "
    "percent that a compressor saves, net of what its decisions cost: first in the default blocks "
    "of its model, and then in all blocks. Counted as by task=profile, without weights, with texts "
    "of the length that each model's pipeline pads them to: 77 tokens for U-Nets, 300 for PixArt, "
    "333 for Stable Diffusion 3, and 512 for Flux."
)


def run(cfg: DictConfig, device: torch.device) -> Report:
    """The suite ``flops`` of configs/benchmark.yaml, which needs no device."""
    chosen = methods(cfg.flops.methods)
    found = [
        _counted(model, pixels, chosen)
        for model, sizes in cfg.flops.cases.items()
        for pixels in sizes
    ]
    tables = {"Saved in default blocks / in all blocks (%)": lines(found)}
    return Report("FLOPs of the published models", NOTE, tables, found, how="Counted with")


def lines(found: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The suite's table of its measurements, the header first."""
    header = ["Model, parameters, pixels", "GFLOPs", *found[0]["saved"]]
    return [header, *map(_line, found)]


def _line(found: Mapping[str, Any]) -> list[str]:
    size = f"{found['parameters'] / 1e9:.2f} billion, {found['pixels']:,}"
    shares = [
        f"{100 * one['default']:.1f} / {100 * one['all']:.1f}" for one in found["saved"].values()
    ]
    return [f"`{found['model']}`, {size}", f"{found['flops'] / 1e9:,.0f}", *shares]


def _counted(name: str, pixels: int, chosen: list[Method]) -> dict[str, Any]:
    skeleton = skeleton_of(name, pixels // PIXELS)
    plain = count(skeleton)
    assert plain is not None  # only a compressor's count depends on data
    default = architecture_of(skeleton).default_places()
    saved = {}
    for method in chosen:
        every = count(skeleton, method.compressor(), blocks="all")
        assert every is not None  # the methods' counts do not depend on data
        saved[method.title] = {
            "default": _less(plain, every, default) / plain.total,
            "all": 1 - every.total / plain.total,
        }
    return {
        "model": name,
        "pixels": pixels,
        "parameters": sum(p.numel() for p in skeleton.parameters()),
        "flops": plain.total,
        "saved": saved,
    }


def _less(plain: Flops, every: Flops, places: set[int]) -> int:
    """What is saved at some places, where all are compressed: each saves the same by itself."""
    keys = plain.breakdown.keys() | every.breakdown.keys()
    return sum(
        plain.breakdown.get(key, 0) - every.breakdown.get(key, 0)
        for key in keys
        if key[0] in places
    )
