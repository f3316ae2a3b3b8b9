"""Drawing images with and without a compressor, and guided ones with and without shared work."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from bigain.attach import attached
from bigain.errors import BiGainError
from bigain.metrics.flops import count
from bigain.metrics.ratio import ratio
from bigain.metrics.timing import Side, fused_attention, in_turn, peak
from bigain.sharing import Sharing
from bigain.tasks.generate import Generate, first_ids, generate
from scripts.benchmarking.methods import BASELINE, methods
from scripts.benchmarking.models import Subject, subject
from scripts.benchmarking.report import Report, mib, text

NOTE = (
    "A batch of images by DDIM, decoded, under every method in the model's default blocks, without "
    "and with guidance; time is of the uncompressed side of the same kind, 1 is equal, and FLOPs "
    "are the denoiser's. Nothing shared is the same guided sampling whose halves compute all "
    "twice; each of its images is the same to a level of 255 in the mean, or the suite fails. "
    "Brackets hold quartiles over the rounds."
)
LEVELS = 1.0  # of 255, where half precision rounds otherwise
ALONE = "Uncompressed, guided, nothing shared"


def run(cfg: DictConfig, device: torch.device) -> Report:
    """The suite ``generation`` of configs/benchmark.yaml."""
    own = cfg.generation
    dtype = getattr(torch, own.dtype)
    tables, found = {}, []
    for name in own.models[device.type]:
        images = own.images[device.type]
        model = subject(name, images, device, dtype, cfg.seed)
        sides: dict[str, Side] = {}
        flops: dict[str, float] = {}
        for method in methods(own.methods):
            compressor = method.compressor(f"model={name}", "task=generate")
            where: dict[str, Any] = {"blocks": "default"} if compressor else {}
            counted = count(model.backbone.denoiser, compressor, **where)
            assert counted is not None
            for guidance, suffix in ((1.0, ""), (own.guidance, ", guided")):
                protocol = Generate("ddim", own.steps, guidance, "trailing")
                title = method.title + suffix
                flops[title] = counted.total
                sides[title] = partial(_side, model, protocol, compressor, cfg.seed)
                if guidance != 1 and method.name == BASELINE:
                    flops[ALONE] = counted.total
                    sides[ALONE] = partial(_side, model, protocol, None, cfg.seed, shared=False)
        with fused_attention(device, dtype):
            _check(sides)
            seconds = in_turn(sides, device, warmup=1, repeats=own.repeats)
            peaks = {title: peak(side, device) for title, side in sides.items()}
        lines = [["", "Images/s", "Time", "FLOPs", "Peak MiB"]]
        for title in sides:
            base = "Uncompressed, guided" if "guided" in title else "Uncompressed"
            lines.append(
                [
                    title,
                    f"{images / median(seconds[title]):.2f}",
                    text(ratio(seconds[title], seconds[base])),
                    f"{flops[title] / flops[base]:.3f}",
                    mib(peaks[title]),
                ]
            )
        tables[f"{name}, {own.dtype}, {images} images of {own.steps} steps"] = lines
        found.append({"model": name, "seconds": seconds, "flops": flops, "peak_memory_mib": peaks})
    return Report("Generation", NOTE, tables, found)


@contextmanager
def _side(
    model: Subject, protocol: Generate, compressor: Any, seed: int, shared: bool = True
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


def _check(sides: dict[str, Side]) -> None:
    """BiGainError unless every image is the same with and without shared work, to `LEVELS`."""
    images = []
    for title in ("Uncompressed, guided", ALONE):
        with sides[title]() as work:
            images.append(np.stack(work()))  # type: ignore[call-overload]
    each = np.abs(np.subtract(*images, dtype=np.int64)).mean((1, 2, 3))
    if each.max() > LEVELS:
        raise BiGainError(f"sharing changes a guided image by {each.max():.2f} of 255 levels")
