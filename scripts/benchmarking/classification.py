"""Classification against the plain loop of the published classifier, at equal results."""

from functools import partial
from statistics import median
from typing import Any

import torch
from omegaconf import DictConfig

from bigain.compilation import compile_denoiser
from bigain.errors import BiGainError
from bigain.metrics.timing import Side, fused_attention, in_turn, peak, ratio
from bigain.tasks.classify import Classify
from scripts.benchmarking import loops
from scripts.benchmarking.hottest import hottest
from scripts.benchmarking.methods import BASELINE, methods
from scripts.benchmarking.models import subject
from scripts.benchmarking.report import Bar, Report, text

WANTED = 1.5
NOTE = (
    "The same images, noises and protocol by the plain loop of the published classifier (image by "
    "image, one batch after another, the conditioning gathered for each, nothing shared, every "
    "error fetched) and by ours, in batches of at most the same size; `compile` is ours with "
    "that option, whose compilation is not timed. Speed-up is the plain loop's time over "
    "ours. Predictions are the same, or the suite fails; difference is the largest between two "
    "errors, relative to the mean error. Brackets hold quartiles over the rounds."
)


def run(cfg: DictConfig, device: torch.device) -> Report:
    """The suite ``classification`` of configs/benchmark.yaml."""
    own = cfg.classification
    protocol = Classify(samples=tuple(own.samples), keep=tuple(own.keep))
    tables, profiles, found, bars = {}, {}, [], []
    for name in own.models[device.type]:
        for kind in own.dtypes:
            dtype, images = getattr(torch, kind), own.images[device.type]
            where = (name, images, device, dtype, cfg.seed)
            eager, compiled = subject(*where), None
            if own.compile is not None:
                compiled = subject(*where)
                compile_denoiser(compiled.backbone.denoiser, own.compile)
            lines = [["", "Plain, images/s", "Ours", "Speed-up", "Difference", "MiB", "Plain, MiB"]]
            for method in methods(own.methods):
                compressor = method.compressor(f"model={name}", "task=classify")
                options = {
                    "protocol": protocol,
                    "compressor": compressor,
                    "batch_size": own.batch_size,
                    "seed": cfg.seed,
                }
                sides: dict[str, Side] = {
                    "plain": partial(loops.side, loops.plain, eager, **options),
                    "ours": partial(loops.side, loops.ours, eager, **options),
                }
                if compiled is not None:
                    sides["compile"] = partial(loops.side, loops.ours, compiled, **options)
                with fused_attention(device, dtype):
                    differences = _compare(sides, dtype)
                    seconds = in_turn(sides, device, warmup=0, repeats=own.repeats)
                    peaks = {side: peak(work, device) for side, work in sides.items()}
                    if method.name == BASELINE:
                        profiles[f"Profile of {name}, {kind}"] = hottest(sides["ours"], device)
                for side in list(sides)[1:]:
                    speed_up = ratio(seconds["plain"], seconds[side])
                    title = method.title + (", compile" if side == "compile" else "")
                    memory = [peaks[side], peaks["plain"]]
                    lines.append(
                        [
                            title,
                            f"{images / median(seconds['plain']):.2f}",
                            f"{images / median(seconds[side]):.2f}",
                            text(speed_up),
                            f"{differences[side]:.1e}",
                            *("–" if m is None else f"{m:.0f}" for m in memory),
                        ]
                    )
                    if method.name == BASELINE:
                        bars.append(
                            Bar(
                                f"classification over the plain loop, {name}, {kind}"
                                + (", compile" if side == "compile" else ""),
                                f"at least {WANTED}",
                                text(speed_up),
                                speed_up.median >= WANTED,
                            )
                        )
                found.append(
                    {
                        "model": name,
                        "dtype": kind,
                        "method": method.name,
                        "images": images,
                        "seconds": seconds,
                        "peak_memory_mib": peaks,
                        "differences": differences,
                    }
                )
            evaluations = protocol.evaluations(len(eager.condition))
            heading = f"{name}, {kind}, {images} images of {evaluations} evaluations"
            tables[heading] = lines
    return Report("Classification", NOTE, tables | profiles, found, bars)


def _compare(sides: dict[str, Side], dtype: torch.dtype) -> dict[str, float]:
    """By side, its largest departure from the plain loop's errors, relative to their mean.

    Raises:
        BiGainError: if an image gets another class, for that would be another result.
    """
    scores: dict[str, Any] = {}
    for name, side in sides.items():
        with side() as work:
            work()  # warms up; a compiler compiles
            scores[name] = work()
    plain = scores.pop("plain")
    found = {}
    for name, ours in scores.items():
        changed = int((ours.predictions.cpu() != plain.predictions).sum())
        if changed and (dtype == torch.float32 or changed > len(plain.predictions) // 8):
            raise BiGainError(f"{name}: {changed} images are classified otherwise than plainly")
        apart = (ours.errors.cpu() - plain.errors).abs()
        found[name] = float(apart.max() / plain.errors.mean())
    return found
