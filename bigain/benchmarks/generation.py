"""Generation with and without a compressor, compiled or not, and with and without sharing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from bigain.benchmarks.methods import BASELINE, PROFILED, methods
from bigain.benchmarks.models import Subject, subject
from bigain.benchmarks.report import Report, mib, text
from bigain.benchmarks.slowest_kernels import slowest
from bigain.compression import attached
from bigain.compression.compilation import compile_denoiser
from bigain.compression.sharing import Sharing
from bigain.errors import BiGainError
from bigain.metrics.ratio import ratio
from bigain.profiling.flops import count
from bigain.profiling.timing import Side, fused_attention, in_turn, peak
from bigain.tasks.generate import Generate, first_ids, generate

NOTE = (
    "A batch of images by DDIM, decoded, under every method in the model's default blocks, without "
    "and with guidance. Time is relative to the uncompressed side of the same kind, where 1 is "
    "equal, and FLOPs are the denoiser's. Nothing shared is the same guided sampling with both "
    "halves computed in full; sharing may change an image by one level of 255 on average, or the "
    "suite fails. compile is the same with that option, whose compilation is not timed. Rounding "
    "is how far images are from the same images drawn in float32, the mean over pixels in levels "
    "of 255; if compiled images are further off than the same uncompiled, beyond chance, the suite "
    "fails. Brackets hold quartiles over the rounds."
)
SHARED = 1.0  # levels of 255 by which sharing may change an image on average, by rounding alone
# by how much chance may add to the rounding of compiled images: a factor, and levels of 255
FURTHER, LEVELS = 1.25, 0.25
GUIDED, ALONE, COMPILE = ", guided", ", nothing shared", ", compile"


def run(cfg: DictConfig, device: torch.device) -> Report:
    """The suite ``generation`` of configs/benchmark.yaml."""
    own = cfg.generation
    (plain,) = methods([BASELINE])
    dtype = getattr(torch, own.dtype)
    tables, found = {}, []
    profiles: dict[str, list[list[str]]] = {}
    for name in own.models[device.type]:
        images = own.images[device.type]
        model, exact = (
            subject(name, images, device, kind, cfg.seed) for kind in (dtype, torch.float32)
        )
        sides: dict[str, Side] = {}
        wanted: dict[str, Side] = {}  # in float32, by the title of the eager way
        flops: dict[str, float] = {}
        for method in methods(own.methods):
            compressor = method.compressor(f"model={name}", "task=generate")
            where: dict[str, Any] = {"blocks": "default"} if compressor else {}
            counted = count(model.backbone.denoiser, compressor, **where)
            assert counted is not None
            compiled = None
            if own.compile is not None:  # one per method, because its hooks are compiled with it
                compiled = subject(name, images, device, dtype, cfg.seed)
                compile_denoiser(compiled.backbone.denoiser, own.compile)
            for guidance, kind in ((1.0, ""), (own.guidance, GUIDED)):
                protocol = Generate("ddim", own.steps, guidance, "trailing")
                title = method.title + kind
                options = {"protocol": protocol, "compressor": compressor, "seed": cfg.seed}
                ways = {title: partial(_side, model, **options)}
                if kind and method.name == BASELINE:
                    ways[title + ALONE] = partial(_side, model, **options, shared=False)
                if compiled is not None:
                    ways[title + COMPILE] = partial(_side, compiled, **options)
                sides |= ways
                wanted[title] = partial(_side, exact, **options)
                flops |= dict.fromkeys(ways, counted.total)
        with fused_attention(device, dtype):
            rounding = _rounding(sides, wanted)
            seconds = in_turn(sides, device, warmup=0, repeats=own.repeats)
            peaks = {title: peak(side, device) for title, side in sides.items()}
            profiles |= {
                f"Profile of {name}, {m.title}": slowest(sides[m.title], device)
                for m in methods(own.methods)
                if m.name in PROFILED
            }
        lines = [["", "Images/s", "Time", "FLOPs", "Rounding", "Peak MiB"]]
        for title in sides:
            base = plain.title + (GUIDED if GUIDED in title else "")
            lines.append(
                [
                    title,
                    f"{images / median(seconds[title]):.2f}",
                    text(ratio(seconds[title], seconds[base])),
                    f"{flops[title] / flops[base]:.3f}",
                    f"{rounding[title]:.2f}",
                    mib(peaks[title]),
                ]
            )
        tables[f"{name}, {own.dtype}, {images} images of {own.steps} steps"] = lines
        found.append(
            {
                "model": name,
                "seconds": seconds,
                "flops": flops,
                "peak_memory_mib": peaks,
                "rounding": rounding,
            }
        )
    return Report("Generation", NOTE, tables | profiles, found)


@contextmanager
def _side(
    model: Subject, *, protocol: Generate, compressor: Any, seed: int, shared: bool = True
) -> Iterator[Callable[[], list[np.ndarray]]]:
    denoiser = model.backbone.denoiser
    ids = first_ids(len(model.latents))
    classes = torch.arange(len(ids), device=model.latents.device) % len(model.condition)
    put = attached(denoiser, compressor, seed=seed)
    with put as attachment, Sharing(denoiser, attachment) as sharing:

        def work() -> list[np.ndarray]:
            given = sharing if shared else None
            condition = model.condition[classes]
            return generate(model.backbone, protocol, condition, ids, seed, given)[0]

        yield work


def _rounding(sides: dict[str, Side], wanted: dict[str, Side]) -> dict[str, float]:
    """By title, the mean distance of a side's images from those in float32, in levels.

    Args:
        sides: the sides to compare. A title with `ALONE` or `COMPILE` comes after its counterpart,
            whose title is the same without it.
        wanted: the sides in float32, by the titles of the counterparts.

    Raises:
        BiGainError: if sharing changes an image, or compiled images are further off than rounding
            explains.
    """
    found: dict[str, float] = {}
    images: dict[str, np.ndarray] = {}
    exact: dict[str, np.ndarray] = {}
    for title, side in sides.items():
        images[title] = _images(side)  # also warms up, and compiles if asked to
        like = title.removesuffix(ALONE).removesuffix(COMPILE)
        if title == like:
            exact[like] = _images(wanted[like])
        found[title] = float(_apart(images[title], exact[like]).mean())
        if title.endswith(ALONE):
            changed = _apart(images[title], images[like]).max()
            if changed > SHARED:
                raise BiGainError(f"sharing changes a guided image by {changed:.2f} of 255 levels")
        elif found[title] > FURTHER * found[like] + LEVELS:
            raise BiGainError(
                f"{title}: images are {found[title]:.2f} of 255 levels off, {found[like]:.2f} "
                "without compiling"
            )
    return found


def _apart(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Each image's distance, the mean over its pixels, in levels."""
    each: np.ndarray = np.abs(np.subtract(ours, theirs, dtype=np.int64)).mean((1, 2, 3))
    return each


def _images(side: Side) -> np.ndarray:
    with side() as work:
        return np.stack(work())  # type: ignore[call-overload]
