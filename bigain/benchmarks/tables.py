"""A forward of each reference model under every compression of the tables at mini scale."""

import sys
from collections.abc import Mapping
from statistics import median
from typing import Any

import torch
from omegaconf import DictConfig

from bigain.benchmarks.report import Report, text
from bigain.benchmarks.slowest_kernels import slowest
from bigain.experiments import experiment_files
from bigain.experiments.job import Job
from bigain.metrics.ratio import ratio
from bigain.profiling.timing import Side, forward_side, fused_attention, in_turn, random_forward
from bigain.store.forward_times import key
from bigain.tasks import TASKS

SCALE = "mini"
WORTH = ["", "Slower than none", "Saving realised, median", "Slowest"]
NOTE = (
    "One forward of each reference model under every compression of the tables at mini scale, all "
    "alternating. Time and FLOPs are relative to the uncompressed model, where 1 is equal; saving "
    "realised is the share of the FLOPs' saving that shows in the time. The tables of results/mini "
    "take their column Time from here. Brackets hold quartiles over the rounds."
)


def run(cfg: DictConfig, device: torch.device) -> Report:
    """The suite ``tables`` of configs/benchmark.yaml."""
    own = cfg.tables
    dtype = getattr(torch, own.dtype)
    tables, profiles, found = {}, {}, []
    for name in own.models:
        jobs = _jobs(name)
        skeleton = next(iter(jobs.values()))[1].backbone.skeleton()
        with torch.inference_mode(), fused_attention(device, dtype):
            model, inputs = random_forward(skeleton, own.batch_size, device, dtype, cfg.seed)
            sides: dict[str, Side] = {}
            for compression, (_, job) in jobs.items():
                where: dict[str, Any] = {"blocks": job.blocks, "sites": list(job.setup.sites)}
                sides[compression] = forward_side(model, inputs, job.compressor, **where)
            seconds = in_turn(sides, device, warmup=1, repeats=own.repeats)
            base = key(name, None)
            profiles[f"Profile of {name}, uncompressed"] = slowest(sides[base], device)
        plain = jobs[base][1].flops
        assert plain is not None
        lines, flops = [["", "ms", "Time", "FLOPs"]], {}
        for compression, (title, job) in jobs.items():
            assert job.flops is not None
            flops[compression] = job.flops.total / plain.total
            lines.append(
                [
                    title,
                    f"{1e3 * median(seconds[compression]):.1f}",
                    text(ratio(seconds[compression], seconds[base])),
                    f"{flops[compression]:.3f}",
                ]
            )
        tables[f"{name}, batch {own.batch_size}, {own.dtype}"] = lines
        found.append(
            {
                "model": name,
                "dtype": own.dtype,
                "batch_size": own.batch_size,
                "baseline": base,
                "seconds": seconds,
                "flops": flops,
            }
        )
    together = {"Compressions that save FLOPs": [WORTH, *map(worth, found)]}
    return Report("Forwards of the tables", NOTE, together | tables | profiles, found)


def worth(measured: Mapping[str, Any]) -> list[str]:
    """What `WORTH` heads: a table line on the model's compressions that save FLOPs."""
    base = measured["seconds"][measured["baseline"]]
    pairs = [
        (ratio(measured["seconds"][key], base).median, flops)
        for key, flops in measured["flops"].items()
        if flops < 1
    ]
    slower = sum(time > 1 for time, _ in pairs)
    realised = median((1 - time) / (1 - flops) for time, flops in pairs)
    return [
        f"`{measured['model']}`, {measured['dtype']}",
        f"{slower} of {len(pairs)}",
        f"{realised:.2f}",
        f"{max(time for time, _ in pairs):.2f}",
    ]


def _jobs(model: str) -> dict[str, tuple[str, Job]]:
    """Every compression among the model's entries, by `key`, with the first title it goes by."""
    jobs: dict[str, tuple[str, Job]] = {}
    experiments, problems = experiment_files.load_all(experiment_files.names(SCALE), SCALE)
    for problem in problems:
        print(f"left out: {problem}", file=sys.stderr)
    for experiment in experiments:
        for group in experiment.groups:
            for row in group.rows:
                for task, entry in row.entries.items():
                    if not TASKS[task].compared or f"model={model}" not in entry.overrides:
                        continue
                    job = entry.job
                    jobs.setdefault(key(model, job.identity["compression"]), (row.title, job))
    return jobs
