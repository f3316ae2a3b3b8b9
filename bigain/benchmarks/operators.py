"""Plan, apply and undo of each operator, beside tomesd's ToMe and the attention it shortens."""

from functools import partial
from math import isqrt
from statistics import median
from typing import Any

import numpy as np
import tomesd.merge
import torch
from diffusers.models.attention_processor import Attention
from omegaconf import DictConfig
from torch import Tensor

from bigain.benchmarks.methods import Method, methods
from bigain.benchmarks.report import Bar, Report, mib, text
from bigain.benchmarks.slowest_kernels import slowest
from bigain.compressors import Compressor, Plan, TokenGrid
from bigain.metrics.ratio import ratio
from bigain.profiling.timing import Side, alone, fused_attention, in_turn, peak, seeded
from bigain.utils.randomness import KeyedStream
from bigain.utils.tables import DASH

TOMESD = "tomesd 0.1.3, ToMe 0.5"
ATTENTION = "self-attention"
HEAD = 64  # channels per attention head
BARRED = {"tokens": 4096, "channels": 320, "batch": 8}
NOTE = (
    "Plan, apply and undo of random tokens at ratio 0.5 (or factor 2). Attention is diffusers' own "
    "block with the device's fused kernel and heads of 64 channels. Saved is the attention's time "
    "minus that of the attention that is left, and share is how much of it the operator takes: "
    "above 1 the operator does not pay off. Brackets hold quartiles over the rounds."
)


def run(cfg: DictConfig, device: torch.device) -> Report:
    """The suite ``operators`` of configs/benchmark.yaml."""
    chosen = methods(cfg.operators.methods)
    tables: dict[str, list[list[str]]] = {}
    profiles: dict[str, list[list[str]]] = {}
    found, bars = [], []
    for name in cfg.operators.dtypes:
        dtype = getattr(torch, name)
        for shape in cfg.operators.shapes:
            case = _Case(dict(shape), chosen, dtype, device, cfg.seed)
            with torch.inference_mode(), fused_attention(device, dtype):
                seconds = in_turn(case.sides, device, warmup=cfg.warmup, repeats=cfg.repeats)
                peaks = {side: peak(case.sides[side], device) for side in case.operators}
                if shape == BARRED:
                    profiles |= {
                        f"Profile of {m.title}, {name}": slowest(case.sides[m.title], device)
                        for m in chosen
                        if m.name in ("tome_first@0.5", "lgtm@0.5")
                    }
            tables[f"{case.heading}, {name}"] = case.lines(seconds, peaks)
            found.append({**shape, "dtype": name, "seconds": seconds, "peak_memory_mib": peaks})
            if shape == BARRED:
                bars.append(_bar(name, seconds, device, chosen))
    return Report("Operators", NOTE, tables | profiles, found, bars)


class _Case:
    """Everything that is timed at one shape.

    Attributes:
        sides: the sides for `in_turn`: the operators, the whole attention, and the attention that
            each operator leaves.
        left: by method, the name of the attention that it leaves.
    """

    def __init__(
        self,
        shape: dict[str, int],
        chosen: list[Method],
        dtype: torch.dtype,
        device: torch.device,
        seed: int,
    ) -> None:
        tokens, channels, batch = shape["tokens"], shape["channels"], shape["batch"]
        self.heading = f"{tokens} tokens of {channels} channels, batch {batch}"
        side = isqrt(tokens)
        grid = TokenGrid(side, side)
        with seeded(device, seed):
            x = torch.randn(batch, tokens, channels, device=device).to(dtype)
            with torch.device(device):
                attention = Attention(channels, heads=channels // HEAD, dim_head=HEAD)
        attention = attention.to(dtype).eval()
        t = torch.full((batch,), 500, device=device)
        stream = KeyedStream(torch.zeros(batch, dtype=torch.int64, device=device))
        generator = torch.Generator(device).manual_seed(seed)

        def theirs() -> Tensor:
            merge, unmerge = tomesd.merge.bipartite_soft_matching_random2d(
                x, side, side, 2, 2, tokens // 2, generator=generator
            )
            result: Tensor = unmerge(merge(x))
            return result

        works: dict[str, Any] = {TOMESD: theirs}
        self.left: dict[str, str] = {}
        remaining: dict[str, Any] = {ATTENTION: partial(attention, x)}
        for method in chosen:
            compressor = method.compressor("task=classify")
            assert compressor is not None
            works[method.title] = partial(_operate, compressor, x, grid, t, stream)
            short, keys = _shorten(compressor.plan(x, grid, t, stream), x)
            name = f"attention of {short.shape[1]} queries on {keys.shape[1]} keys"
            remaining.setdefault(name, partial(attention, short, encoder_hidden_states=keys))
            self.left[method.title] = name
        self.operators = list(works)
        self.sides: dict[str, Side] = {
            name: alone(work) for name, work in (works | remaining).items()
        }

    def lines(
        self, seconds: dict[str, list[float]], peaks: dict[str, float | None]
    ) -> list[list[str]]:
        whole = seconds[ATTENTION]
        lines = [["", "ms", "× tomesd's", "Saved, ms", "Share of it", "Peak MiB"]]
        for name in self.operators:
            saved, share = DASH, DASH
            if name in self.left:
                less = np.subtract(whole, seconds[self.left[name]])
                saved = f"{1e3 * float(np.median(less)):.2f}"
                pays = bool((less > 0).all())
                share = text(ratio(seconds[name], less.tolist())) if pays else DASH
            lines.append(
                [
                    name,
                    f"{1e3 * median(seconds[name]):.2f}",
                    text(ratio(seconds[name], seconds[TOMESD])),
                    saved,
                    share,
                    mib(peaks[name]),
                ]
            )
        lines.append([ATTENTION, f"{1e3 * median(whole):.2f}", *[DASH] * 4])
        return lines


def _operate(
    compressor: Compressor, x: Tensor, grid: TokenGrid, t: Tensor, stream: KeyedStream
) -> Tensor:
    """What a compressor adds to a block's attention."""
    plan = compressor.plan(x, grid, t, stream)
    short, keys = _shorten(plan, x)
    return plan.queries.undo(short) if plan.queries else keys


def _shorten(plan: Plan, x: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens that attend, and those that they attend to."""
    short = plan.queries.apply(x) if plan.queries else x
    return short, plan.keys_values(x) if plan.keys_values else short


def _bar(
    dtype: str, seconds: dict[str, list[float]], device: torch.device, chosen: list[Method]
) -> Bar:
    (title,) = [m.title for m in chosen if m.name == "lgtm@0.5"]
    name = f"L-GTM's operator over tomesd's ToMe, 4,096 tokens, {dtype}"
    most = 0.25 if device.type == "cuda" else 0.5
    return Bar.most(name, ratio(seconds[title], seconds[TOMESD]), most)
