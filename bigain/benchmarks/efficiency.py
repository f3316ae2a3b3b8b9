"""The share of a run's time that the model itself would take in its best batches."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from math import ceil
from statistics import median
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from bigain.benchmarks.classification_run import ClassificationRun, configured
from bigain.benchmarks.methods import methods
from bigain.benchmarks.report import Bar, Report, mib, text
from bigain.benchmarks.slowest_kernels import slowest
from bigain.compression import attached
from bigain.metrics.ratio import ratio
from bigain.profiling.timing import Side, fused_attention, in_turn, peak
from bigain.tasks.classify import Classify

WANTED = 0.95
NOTE = (
    "A whole run of task=classify, from images to rows on disk, and as many evaluations of the "
    "model alone, in batches of the size that earlier rounds found fastest per evaluation. "
    "Efficiency is the latter's time over the former's; a U-Net's exceeds 1 where classes share "
    "work. Bare MiB are of the forwards alone. Brackets hold quartiles over the rounds."
)


def run(cfg: DictConfig, device: torch.device) -> Report:
    """The suite ``efficiency`` of configs/benchmark.yaml."""
    own = cfg.efficiency
    profiles, found, bars = {}, [], []
    lines = [["", "Images/s", "Best batch", "Efficiency", "Peak MiB", "Bare MiB"]]
    for name in own.models:
        for method in methods(own.methods):
            whole = ClassificationRun(configured(method, name, own, device))
            assert isinstance(whole.job.task, Classify)  # see `configured`
            each = whole.job.task.evaluations(len(whole.job.dataset.classes))
            evaluations = each * own.images
            samples = max(own.batch_sizes)  # the same number at every batch size
            batches: dict[str, Side] = {
                str(size): partial(_forwards, whole, size, samples // size, device)
                for size in own.batch_sizes
            }
            with fused_attention(device, getattr(torch, own.dtype)):
                # in rounds of their own: the luckiest rounds would otherwise be chosen and reported
                sizes = in_turn(batches, device, warmup=1, repeats=own.repeats)
                best = min(sizes, key=lambda size: median(sizes[size]))
                size, times = int(best), ceil(evaluations / int(best))
                bare = partial(_forwards, whole, size, times, device)
                sides: dict[str, Side] = {"run": whole.side, "bare": bare}
                seconds = in_turn(sides, device, warmup=1, repeats=own.repeats)
                peaks = {way: peak(side, device) for way, side in sides.items()}
                profile = slowest(whole.side, device)
            exactly = np.multiply(seconds["bare"], evaluations / (times * size))
            efficiency = ratio(list(exactly), seconds["run"])
            title = f"{name}, {method.title}"
            profiles[f"Profile of {title}"] = profile
            rate = own.images / median(seconds["run"])
            lines.append([title, f"{rate:.2f}", best, text(efficiency), *map(mib, peaks.values())])
            found.append(
                {
                    "name": title,
                    "evaluations": evaluations,
                    "seconds": seconds,
                    "seconds_by_batch_size": sizes,
                    "peak_memory_mib": peaks,
                }
            )
            bars.append(Bar.least(f"efficiency of the task, {title}", efficiency, WANTED))
    heading = f"{own.dtype}, {own.images} images, batch {own.batch_size}"
    return Report("Efficiency", NOTE, {heading: lines} | profiles, found, bars)


@contextmanager
def _forwards(
    whole: ClassificationRun, size: int, times: int, device: torch.device
) -> Iterator[Callable[[], None]]:
    """Runs ``times`` batches through the model alone."""
    backbone: Any = whole.backbone
    condition = backbone.condition(whole.job.dataset)
    x = torch.randn(size, *backbone.latent_shape, device=device)
    t = torch.full((size,), 500, device=device)
    rows = condition[torch.arange(size, device=device) % len(condition)]

    @torch.inference_mode()
    def work() -> None:
        for _ in range(times):
            backbone.predict(x, t, rows)

    where = {"blocks": whole.job.blocks, "sites": whole.job.setup.sites}
    with attached(backbone.denoiser, whole.job.compressor, **where):
        yield work
