"""A forward of the published architectures under every method, beside what its FLOPs promise."""

from collections.abc import Mapping
from statistics import median
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from bigain import config
from bigain.blocks import select_blocks, tokens
from bigain.metrics.flops import count
from bigain.metrics.ratio import Ratio, ratio
from bigain.metrics.timing import (
    Side,
    forward_side,
    fused_attention,
    in_turn,
    peak,
    random_forward,
)
from bigain.results.tables import DASH
from scripts.benchmarking.hottest import hottest
from scripts.benchmarking.methods import BASELINE, PROFILED, methods
from scripts.benchmarking.report import Bar, Report, mib, text

REALISED = 0.9
TOGETHER = 3  # methods that are timed in turn with the baseline, before the next ones are
NOTE = (
    "One forward with random weights under rows of experiments/joint.yaml, in the model's "
    f"default blocks, {TOGETHER} at a time in turn with the uncompressed model, so that each "
    "is compared with one of the same minute. Time and FLOPs are of that model, 1 is equal; "
    "realised is the share of the FLOPs' saving that the time shows; the bar is of models of 1,024 "
    "tokens and more. Brackets hold quartiles over the rounds."
)


def run(cfg: DictConfig, device: torch.device) -> Report:
    """The suite ``forwards`` of configs/benchmark.yaml."""
    own = cfg.forwards
    tables, found, bars = {}, [], []
    for heading, case in own.cases.items():
        name, batch, dtype = case.model, case.batch_size[device.type], getattr(torch, case.dtype)
        every = methods(case.methods)
        backbone = config.build(every[0].configured(f"model={name}"), "model")
        skeleton = backbone.skeleton()
        longest = max(tokens(skeleton, b.place) for b in select_blocks(skeleton, "default"))
        compressors = {m.title: m.compressor(f"model={name}", "task=classify") for m in every}
        where: dict[str, Any] = {"blocks": "default", "sites": ["self_attention"]}
        flops = {}
        for title, compressor in compressors.items():
            counted = count(skeleton, compressor, **(where if compressor else {}))
            assert counted is not None
            flops[title] = counted.total
        (base,) = [m.title for m in every if m.name == BASELINE]
        with torch.inference_mode(), fused_attention(device, dtype):
            model, inputs = random_forward(skeleton, batch, device, dtype, cfg.seed)
            sides = {
                title: forward_side(model, inputs, compressor, **where)
                for title, compressor in compressors.items()
            }
            in_turn(sides, device, warmup=cfg.warmup, repeats=0)
            peaks = {title: peak(side, device) for title, side in sides.items()}
            seconds, beside = _timed(sides, base, device, own.repeats)
            profiles = {
                f"Profile of {heading}, {title}": hottest(sides[title], device)
                for title in (m.title for m in every if m.name in PROFILED)
            }
        lines = [["Method", "ms", "Time", "FLOPs", "Realised", "Peak MiB"]]
        realised = {}
        for title in sides:
            time, cost = ratio(seconds[title], beside[title]), flops[title] / flops[base]
            if cost < 1:
                realised[title] = Ratio(
                    *((1 - v) / (1 - cost) for v in (time[0], time[2], time[1]))
                )
            lines.append(
                [
                    title,
                    f"{1e3 * median(seconds[title]):.1f}",
                    text(time, 3),
                    f"{cost:.3f}",
                    text(realised[title]) if title in realised else DASH,
                    mib(peaks[title]),
                ]
            )
        tables[f"{heading}: {longest} tokens, batch {batch}, {case.dtype}"] = lines
        tables |= profiles
        found.append(
            {
                "model": name,
                "dtype": case.dtype,
                "batch_size": batch,
                "flops": flops,
                "seconds": seconds,
                "uncompressed_beside": beside,
                "peak_memory_mib": peaks,
            }
        )
        if longest >= 1024:
            bars.append(_bar(heading, realised))
    return Report("Forwards", NOTE, tables, found, bars)


def _timed(
    sides: Mapping[str, Side], base: str, device: torch.device, repeats: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """By side, its seconds and those of the baseline in the same rounds."""
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
