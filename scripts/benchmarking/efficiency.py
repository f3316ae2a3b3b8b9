"""How much of a run's time the model itself takes, at its best."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from bigain.attach import attached
from bigain.metrics.ratio import ratio
from bigain.metrics.timing import Side, fused_attention, in_turn, peak
from scripts.benchmarking.hottest import hottest
from scripts.benchmarking.methods import methods
from scripts.benchmarking.report import Bar, Report, mib, text
from scripts.benchmarking.whole import Whole, configured

WANTED = 0.95
NOTE = (
    "A whole run of task=classify, from images to rows on disk, and as many evaluations of the "
    "model alone, in batches of the size that is fastest a cell. Efficiency is the latter's time "
    "over the former's; a U-Net's exceeds 1 where classes share work. Bare MiB are of the forwards "
    "alone. Brackets hold quartiles over the rounds."
)


def run(cfg: DictConfig, device: torch.device) -> Report:
    """The suite ``efficiency`` of configs/benchmark.yaml."""
    own = cfg.efficiency
    profiles, found, bars = {}, [], []
    lines = [["", "Images/s", "Best batch", "Efficiency", "Peak MiB", "Bare MiB"]]
    for name in own.models:
        for method in methods(own.methods):
            whole = Whole(configured(method, name, own, device))
            each = whole.job.task.evaluations(len(whole.job.dataset.classes))
            evaluations = each * own.images
            cells = max(own.batch_sizes)
            sides: dict[str, Side] = {
                str(size): partial(_forwards, whole, size, cells // size, device)
                for size in own.batch_sizes
            }
            sides["run"] = whole.side
            with fused_attention(device, getattr(torch, own.dtype)):
                seconds = in_turn(sides, device, warmup=1, repeats=own.repeats)
                best = min(map(str, own.batch_sizes), key=lambda size: median(seconds[size]))
                peaks = {way: peak(sides[way], device) for way in ("run", best)}
                profile = hottest(sides["run"], device)
            bare = np.multiply(seconds[best], evaluations / cells)
            efficiency = ratio(list(bare), seconds["run"])
            title = f"{name}, {method.title}"
            profiles[f"Profile of {title}"] = profile
            rate = own.images / median(seconds["run"])
            memory = [mib(peaks["run"]), mib(peaks[best])]
            lines.append([title, f"{rate:.2f}", best, text(efficiency), *memory])
            found.append(
                {
                    "name": title,
                    "evaluations": evaluations,
                    "seconds": seconds,
                    "peak_memory_mib": peaks,
                }
            )
            bars.append(Bar.least(f"efficiency of the task, {title}", efficiency, WANTED))
    heading = f"{own.dtype}, {own.images} images, batch {own.batch_size}"
    return Report("Efficiency", NOTE, {heading: lines} | profiles, found, bars)


@contextmanager
def _forwards(
    whole: Whole, size: int, times: int, device: torch.device
) -> Iterator[Callable[[], None]]:
    """``times`` batches of the model alone."""
    backbone: Any = whole.backbone
    condition = backbone.condition(whole.job.dataset)
    x = torch.randn(size, *backbone.latent_shape, device=device)
    t = torch.full((size,), 500, device=device)
    rows = condition[torch.arange(size, device=device) % len(condition)]

    @torch.inference_mode()
    def work() -> None:
        for _ in range(times):
            backbone.predict_noise(x, t, rows)

    where = {"blocks": whole.job.blocks, "sites": whole.job.cfg.sites}
    with attached(backbone.denoiser, whole.job.compressor, **where):
        yield work
