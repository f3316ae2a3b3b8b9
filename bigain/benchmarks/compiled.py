"""Whole forwards, eager and compiled, in turn, with tomesd's own patch beside ours."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from statistics import median
from typing import Any

import tomesd
import torch
from diffusers import UNet2DConditionModel
from omegaconf import DictConfig

from bigain.benchmarks.forwards import skeleton_of
from bigain.benchmarks.methods import BASELINE, methods
from bigain.benchmarks.report import Report, mib, text
from bigain.compression import attached
from bigain.compression.compilation import compile_denoiser
from bigain.metrics.ratio import ratio
from bigain.profiling.flops import count
from bigain.profiling.timing import alone, fused_attention, in_turn, peak, random_forward
from bigain.utils.tables import DASH

PATCH, COMPILE = "tomesd 0.1.3's patch, ToMe 0.5", ", compile"
NOTE = (
    "One forward with random weights in the model's default blocks, in turn with the uncompressed "
    "model. compile is the same after torch.compile, whose compilation is not timed. Time is "
    "relative to the uncompressed model, not compiled, where 1 is equal; so is Like, to the "
    "uncompressed model that is compiled if the row is. Brackets hold quartiles over the rounds."
)


def run(cfg: DictConfig, device: torch.device) -> Report:
    """Time the methods of ``cfg.compiled``, each on a model of its own.

    The settings are model, sample_size, dtype, batch_size, methods with the uncompressed one,
    compile (a mode) and repeats.
    """
    own = cfg.compiled
    dtype, skeleton = getattr(torch, own.dtype), skeleton_of(own.model, own.sample_size)
    works: dict[str, Callable[[], object]] = {}
    flops: dict[str, int] = {}
    base = ""
    with ExitStack() as stack, torch.inference_mode(), fused_attention(device, dtype):

        def made() -> tuple[Any, dict[str, Any]]:
            return random_forward(skeleton, own.batch_size, device, dtype, cfg.seed)

        for method in methods(own.methods):
            compressor = method.compressor(f"model={own.model}", "task=classify")
            where: dict[str, Any] = {"blocks": "default"} if compressor else {}
            counted = count(skeleton, compressor, **where)
            assert counted is not None
            base = method.title if method.name == BASELINE else base
            for suffix in ("", COMPILE):
                model, inputs = made()
                if suffix:
                    compile_denoiser(model, own.compile)
                # throughout, because a model is compiled again whenever hooks are added
                stack.enter_context(attached(model, compressor, seed=cfg.seed, **where))
                works[method.title + suffix] = partial(model, **inputs)
                flops[method.title + suffix] = counted.total
        if issubclass(type(skeleton), UNet2DConditionModel):
            model, inputs = made()
            tomesd.apply_patch(model, ratio=0.5)
            sample = inputs.pop("sample")  # its hook reads the size from a positional argument
            works[PATCH] = partial(model, sample, **inputs)
        sides = {title: alone(work) for title, work in works.items()}
        in_turn(sides, device, warmup=2, repeats=0)
        peaks = {title: peak(side, device) for title, side in sides.items()}
        seconds = in_turn(sides, device, warmup=0, repeats=own.repeats)
    lines = [["", "ms", "Time", "Like", "FLOPs", "Peak MiB"]]
    for title in sides:
        like = base + (COMPILE if title.endswith(COMPILE) else "")
        lines.append(
            [
                title,
                f"{1e3 * median(seconds[title]):.1f}",
                text(ratio(seconds[title], seconds[base]), 3),
                text(ratio(seconds[title], seconds[like]), 3),
                f"{flops[title] / flops[base]:.3f}" if title in flops else DASH,
                mib(peaks[title]),
            ]
        )
    about = {key: own[key] for key in ("model", "sample_size", "dtype", "batch_size")}
    found = {**about, "seconds": seconds, "flops": flops, "peak_memory_mib": peaks}
    heading = f"{own.model}, batch {own.batch_size}, {own.dtype}, compile={own.compile}"
    return Report("Compiled forwards", NOTE, {heading: lines}, [found])
