"""A forward of the published architectures under every method, beside its saving of FLOPs."""

from collections.abc import Mapping
from statistics import median
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from bigain.benchmarks.methods import BASELINE, PROFILED, methods
from bigain.benchmarks.repeating import repeating
from bigain.benchmarks.report import Bar, Report, mib, text
from bigain.benchmarks.slowest_kernels import slowest
from bigain.compression import architecture_of, select_blocks
from bigain.errors import BiGainError
from bigain.experiments.targets import build
from bigain.metrics.ratio import Ratio, ratio
from bigain.profiling.alike import alike
from bigain.profiling.flops import count
from bigain.profiling.timing import (
    Side,
    forward_side,
    fused_attention,
    in_turn,
    peak,
    random_forward,
)
from bigain.utils.tables import DASH

REALISED = 0.9
TOGETHER = 6  # methods that alternate with one baseline, before the next group starts
NOTE = (
    "One forward with random weights under methods of experiments/figure2.yaml, in the model's "
    f"default blocks, {TOGETHER} at a time alternating with the uncompressed model, so that each "
    "is compared with timings of the same minute. Time and FLOPs are relative to that model, where "
    "1 is equal. Blocks are forwards that compute little but those blocks: all other layers "
    "repeat their earlier, uncompressed outputs, since all savings arise in the blocks and the "
    "other layers would only add noise. Realised is the share of the FLOPs' saving that shows in "
    "the blocks' time, scaled by the blocks' part of a whole forward, which comes from medians, "
    "whose scatter is not in the brackets; the bar is for models of 1,024 tokens and more. A dash "
    "stands where the whole was not timed. Brackets hold quartiles over the rounds."
)


def run(cfg: DictConfig, device: torch.device) -> Report:
    """The suite ``forwards`` of configs/benchmark.yaml."""
    own = cfg.forwards
    tables, found, bars = {}, [], []
    for heading, case in own.cases.items():
        name, batch, dtype = case.model, case.batch_size[device.type], getattr(torch, case.dtype)
        every = methods(case.methods)
        skeleton = skeleton_of(name, case.get("sample_size"))
        architecture = architecture_of(skeleton)
        longest = max(map(architecture.tokens, architecture.default_places()))
        compressors = {m.title: m.compressor(f"model={name}", "task=classify") for m in every}
        where: dict[str, Any] = {"blocks": "default", "sites": ["self_attention"]}
        flops = {}
        for title, compressor in compressors.items():
            counted = count(skeleton, compressor, **(where if compressor else {}))
            assert counted is not None
            flops[title] = counted.total
        (base,) = [m.title for m in every if m.name == BASELINE]
        chosen = [m.name for m in every] if case.whole is None else [BASELINE, *case.whole]
        if unknown := sorted(set(chosen) - {m.name for m in every}):
            raise BiGainError(f"{heading}: whole names {unknown[0]}, which methods lacks")
        wholes = [m.title for m in every if m.name in chosen]
        with torch.inference_mode(), fused_attention(device, dtype):
            model, inputs = random_forward(skeleton, batch, device, dtype, cfg.seed)
            sides = {
                title: forward_side(model, inputs, compressor, **where)
                for title, compressor in compressors.items()
            }
            whole = {title: sides[title] for title in wholes}
            in_turn(whole, device, warmup=cfg.warmup, repeats=0)
            peaks = {title: peak(side, device) for title, side in whole.items()}
            seconds, beside = _timed(whole, base, device, own.repeats)
            profiles = {
                f"Profile of {heading}, {title}": slowest(sides[title], device)
                for title in (m.title for m in every if m.name in PROFILED)
            }
            blocks = [block.module for block in select_blocks(model, "default")]
            with repeating(model, inputs, but=blocks):
                in_turn(sides, device, warmup=cfg.warmup, repeats=0)
                of_blocks, blocks_beside = _timed(sides, base, device, own.repeats_of_blocks)
        lines = [["Method", "ms", "Time", "Blocks, ms", "Blocks", "FLOPs", "Realised", "Peak MiB"]]
        realised = {}
        share = median(of_blocks[base]) / median(seconds[base])
        for title in sides:
            cost = flops[title] / flops[base]
            if cost < 1:
                time = ratio(of_blocks[title], blocks_beside[title])
                realised[title] = Ratio(
                    *((1 - v) * share / (1 - cost) for v in (time.median, time.high, time.low))
                )
            timed = title in seconds
            lines.append(
                [
                    title,
                    f"{1e3 * median(seconds[title]):.1f}" if timed else DASH,
                    text(ratio(seconds[title], beside[title]), 3) if timed else DASH,
                    f"{1e3 * median(of_blocks[title]):.1f}",
                    text(ratio(of_blocks[title], blocks_beside[title]), 3),
                    f"{cost:.3f}",
                    text(realised[title]) if title in realised else DASH,
                    mib(peaks.get(title)),
                ]
            )
        tables[f"{heading}: {longest} tokens, batch {batch}, {case.dtype}"] = lines
        tables |= profiles
        found.append(
            {
                "model": name,
                "sample_size": case.get("sample_size"),
                "dtype": case.dtype,
                "batch_size": batch,
                "flops": flops,
                "seconds": seconds,
                "uncompressed_beside": beside,
                "seconds_of_blocks": of_blocks,
                "uncompressed_blocks_beside": blocks_beside,
                "peak_memory_mib": peaks,
            }
        )
        if longest >= 1024:
            bars.append(_bar(heading, realised))
    return Report("Forwards", NOTE, tables, found, bars)


def skeleton_of(name: str, sample_size: int | None = None) -> Any:
    """A model of configs/model on the meta device.

    Args:
        sample_size: the side of its latents; None for the published one.
    """
    (plain,) = methods([BASELINE])
    skeleton = build(plain.configured(f"model={name}"), "model").skeleton()
    if sample_size is None:
        return skeleton
    with torch.device("meta"):
        return alike(skeleton, sample_size=sample_size).eval()


def _timed(
    sides: Mapping[str, Side], base: str, device: torch.device, repeats: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """The seconds of each side, and the baseline's in the same rounds."""
    others = [title for title in sides if title != base]
    seconds: dict[str, list[float]] = {base: []}
    beside: dict[str, list[float]] = {}
    for start in range(0, len(others), TOGETHER):
        group = others[start : start + TOGETHER]
        found = in_turn({t: sides[t] for t in (base, *group)}, device, warmup=0, repeats=repeats)
        seconds[base] += found[base]
        seconds |= {title: found[title] for title in group}
        beside |= dict.fromkeys(group, found[base])
    return seconds, {base: seconds[base], **beside}


def _bar(heading: str, realised: dict[str, Ratio]) -> Bar:
    values = [r.median for r in realised.values()]
    worst = min(realised, key=lambda title: realised[title].median)
    reached = sum(v >= REALISED for v in values)
    return Bar(
        f"saving realised of the FLOPs' promise, {heading}",
        f"at least {REALISED} by every method",
        f"{reached} of {len(values)} methods, median {np.median(values):.2f}, "
        f"least {realised[worst].median:.2f} ({worst})",
        reached == len(values),
    )
