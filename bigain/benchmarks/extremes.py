"""Profiles of the forwards that realise least and most of what FLOPs promise."""

from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from omegaconf import DictConfig

from bigain.benchmarks.forwards import skeleton_of
from bigain.benchmarks.methods import BASELINE, methods
from bigain.benchmarks.report import Report
from bigain.benchmarks.slowest_kernels import slowest
from bigain.errors import BiGainError
from bigain.profiling.timing import forward_side, fused_attention, random_forward

NOTE = (
    "The measured forwards that realise least and most of the time that their saving of FLOPs "
    "promises, and the same forwards without a compressor."
)


def run(cfg: DictConfig, device: torch.device) -> Report:
    """Profile ``cfg.extremes.cases``, as `find` returns them.

    Raises:
        BiGainError: if there are none.
    """
    if not cfg.extremes.cases:
        raise BiGainError("no forward was measured yet whose compressor saves FLOPs")
    tables = {}
    titled = {method.title: method for method in methods()}
    for kind, case in cfg.extremes.cases.items():
        compressor = titled[case.title].compressor(f"model={case.model}", "task=classify")
        dtype = getattr(torch, case.dtype)
        with torch.inference_mode(), fused_attention(device, dtype):
            skeleton = skeleton_of(case.model, case.sample_size)
            model, inputs = random_forward(skeleton, case.batch_size, device, dtype, cfg.seed)
            where: dict[str, Any] = {"blocks": "default", "sites": ["self_attention"]}
            about = f"{case.model}, batch {case.batch_size}, {case.dtype}"
            for title, put in ((case.title, compressor), (BASELINE, None)):
                side = forward_side(model, inputs, put, **where)
                with side() as work:
                    work()  # warms up
                tables[f"{kind}, {title}: {about}"] = slowest(side, device)
    return Report("Extremes", NOTE, tables, [])


def find(measurements: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The cases "Least" and "Most" realised among measurements of the suite ``forwards``."""
    found = []
    (plain,) = methods([BASELINE])
    base = plain.title
    for measured in measurements:
        for title, seconds in measured["seconds"].items():
            promised = 1 - measured["flops"][title] / measured["flops"][base]
            if promised > 0:
                beside = measured["uncompressed_beside"][title]
                saved = 1 - median(seconds) / median(beside)
                keys = ("model", "sample_size", "dtype", "batch_size")
                found.append((saved / promised, {"title": title, **{k: measured[k] for k in keys}}))
    if not found:
        return {}
    ordered = sorted(found, key=lambda pair: pair[0])
    return {"Least": ordered[0][1], "Most": ordered[-1][1]}
