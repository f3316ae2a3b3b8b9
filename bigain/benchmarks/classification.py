"""Classification timed against the plain loop of the published classifier, at equal results."""

from functools import partial
from statistics import median
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig

from bigain.benchmarks.loops import Loop, side
from bigain.benchmarks.methods import BASELINE, methods
from bigain.benchmarks.models import subject
from bigain.benchmarks.report import Bar, Report, mib, text
from bigain.benchmarks.slowest_kernels import slowest
from bigain.compression.compilation import compile_denoiser
from bigain.compression.sharing import shares_plans
from bigain.errors import BiGainError
from bigain.metrics.ratio import ratio
from bigain.profiling.timing import Side, fused_attention, in_turn, peak
from bigain.tasks.classify import Classify
from bigain.utils.tables import DASH

WANTED = 1.5
SHARED, RACE, PADDED, RACE_PADDED = "shared plans", "race", "padded", "race, padded"
# the share of images whose class may change by rounding
TIES = {torch.float32: 0.0, torch.float16: 1 / 8, torch.bfloat16: 1 / 8}
HEADER = [
    "",
    "Plain, images/s",
    "Ours",
    "Speed-up",
    "Difference",
    "Other classes",
    "MiB",
    "Plain, MiB",
]
NOTE = (
    "The same images, noises and protocol by the plain loop of the published classifier (image by "
    "image, one batch after another, the conditioning gathered for each, nothing shared, every "
    "error fetched) and by ours, in batches of at most the same size; compile is ours with "
    "that option, whose compilation is not timed; padded is what runs do on a CPU, where no "
    "layer sees fewer samples than smallest_batch, so that results do not depend on batches. "
    "Speed-up is the plain loop's time over ours. Difference is the largest between errors that "
    "both computed, relative to the mean error. Other classes are the images that rounding puts "
    "into another class: at most none in "
    "float32 and one in eight in half precision, or the suite fails. Both decide for each class by "
    "itself; shared plans is ours with its default, by which all classes of a noisy image follow "
    "one plan, and race is that with strategy=race, so neither is compared. Brackets hold "
    "quartiles over the rounds."
)


def run(cfg: DictConfig, device: torch.device) -> Report:
    """The suite ``classification`` of configs/benchmark.yaml."""
    own = cfg.classification
    protocol = Classify(samples=tuple(own.samples), keep=tuple(own.keep))
    tables, profiles, found, bars = {}, {}, [], []
    for name in own.models[device.type]:
        for kind in own.dtypes:
            dtype, images = getattr(torch, kind), own.images[device.type]
            where = (name, images, device, dtype, cfg.seed, own.classes)
            eager, compiled = subject(*where), None
            if own.compile is not None:
                compiled = subject(*where)
                compile_denoiser(compiled.backbone.denoiser, own.compile)
            lines = [HEADER]
            for method in methods(own.methods):
                compressor = method.compressor(f"model={name}", "task=classify")
                options = {
                    "protocol": protocol,
                    "compressor": compressor,
                    "batch_size": own.batch_size,
                    "seed": cfg.seed,
                }
                sides: dict[str, Side] = {
                    "plain": partial(side, Loop.plain, eager, **options),
                    "ours": partial(side, Loop.ours, eager, **options),
                }
                padding = {"smallest_batch": own.smallest_batch}
                if device.type == "cpu":
                    sides[PADDED] = partial(side, Loop.ours, eager, **options, **padding)
                if compiled is not None:
                    sides["compile"] = partial(side, Loop.ours, compiled, **options)
                with fused_attention(device, dtype):
                    differences = _compare(sides, dtype)
                    alike = {**options, "plans": "shared"}
                    others: dict[str, Side] = {RACE: partial(side, Loop.race, eager, **alike)}
                    if device.type == "cpu":
                        others[RACE_PADDED] = partial(side, Loop.race, eager, **alike, **padding)
                    if compressor is not None and shares_plans(compressor):
                        others[SHARED] = partial(side, Loop.ours, eager, **alike)
                    in_turn(others, device, warmup=1, repeats=0)
                    sides |= others
                    seconds = in_turn(sides, device, warmup=0, repeats=own.repeats)
                    peaks = {way: peak(chosen, device) for way, chosen in sides.items()}
                    if method.name == BASELINE:
                        profiles[f"Profile of {name}, {kind}"] = slowest(sides["ours"], device)
                for way in sides:
                    if way == "plain":
                        continue
                    difference = differences.get(way)
                    speed_up = ratio(seconds["plain"], seconds[way])
                    suffix = "" if way == "ours" else f", {way}"
                    lines.append(
                        [
                            method.title + suffix,
                            f"{images / median(seconds['plain']):.2f}",
                            f"{images / median(seconds[way]):.2f}",
                            text(speed_up),
                            f"{difference.errors:.1e}" if difference else DASH,
                            str(difference.predictions) if difference else DASH,
                            mib(peaks[way]),
                            mib(peaks["plain"]),
                        ]
                    )
                    if method.name == BASELINE and difference:
                        what = f"classification over the plain loop, {name}, {kind}{suffix}"
                        bars.append(Bar.least(what, speed_up, WANTED))
                found.append(
                    {
                        "model": name,
                        "dtype": kind,
                        "method": method.name,
                        "images": images,
                        "seconds": seconds,
                        "peak_memory_mib": peaks,
                        "differences": {way: d._asdict() for way, d in differences.items()},
                    }
                )
            evaluations = protocol.evaluations(len(eager.condition))
            heading = f"{name}, {kind}, {images} images of {evaluations} evaluations"
            tables[heading] = lines
    return Report("Classification", NOTE, tables | profiles, found, bars)


class Difference(NamedTuple):
    """How far a way's results are from the plain loop's.

    Attributes:
        errors: largest difference of a trial's error, relative to the mean error.
        predictions: number of images that get another class.
    """

    errors: float
    predictions: int


def _compare(sides: dict[str, Side], dtype: torch.dtype) -> dict[str, Difference]:
    """Each way's difference from the plain loop, over the trials that both computed.

    Raises:
        BiGainError: if more images get another class than `TIES` allows, because rounding alone
            does not explain that.
    """
    scores: dict[str, Any] = {}
    for name, chosen in sides.items():
        with chosen() as work:
            work()  # warms up, and compiles if asked to
            scores[name] = work()
    plain = scores.pop("plain")
    found = {}
    for name, ours in scores.items():
        changed = int((ours.predictions.cpu() != plain.predictions).sum())
        if changed > TIES[dtype] * len(plain.predictions):
            raise BiGainError(
                f"{name}: {changed} images are classified otherwise than by the plain loop"
            )
        apart = (ours.trials.cpu() - plain.trials).abs()
        apart = apart[apart.isfinite()]  # the others were computed by only one of the two
        found[name] = Difference(float(apart.max() / plain.trials.nanmean()), changed)
    return found
