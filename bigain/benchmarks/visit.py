"""A visit to a GPU: items measured in order within a budget, continued by the next visit.

Each result is a line of ``visits.jsonl``, on disk as soon as it is known. A visit may be killed at
any moment, and the next one goes on with what was never begun.
"""

import json
import os
import time
from collections import Counter
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from bigain.benchmarks.extremes import find
from bigain.benchmarks.report import Report, text
from bigain.benchmarks.visit_items import Item, items
from bigain.compressors import kernels
from bigain.errors import BiGainError, one_line
from bigain.metrics.ratio import Ratio, ratio
from bigain.profiling.timing import conditions
from bigain.utils import files
from bigain.utils.devices import device_of, keep_freed_memory
from bigain.utils.hardware import hardware
from bigain.utils.paths import REPOSITORY
from bigain.utils.tables import DASH, markdown

POOLED = ["", "Rounds", "Time"]
RESULTS, PAGE = "visits.jsonl", "visits.md"
MARGIN = 1.2  # how much longer than last time an item may take

Record = dict[str, Any]


def visit(cfg: DictConfig) -> None:
    """Measure what configs/gpu.yaml describes until its budget is spent.

    Items that were never begun come first, in order; then those that failed or were cut off; then
    those whose ratios scatter most, for another round.

    Raises:
        BiGainError: if there is no such device, or the results cannot be written.
    """
    end = time.monotonic() + cfg.budget
    device = device_of(cfg.device)
    if device.type == "cpu":
        keep_freed_memory()
    folder = Path(cfg.results) / hardware(device.type)
    files.make_folder(folder)
    listed, records = items(cfg, device.type), read(folder / RESULTS)
    failed: set[str] = set()
    while True:
        hopeful = [item for item in listed if item.key not in failed]
        item = following(hopeful, records, end - time.monotonic())
        if item is None:
            break
        print(f"{item.key} ...", flush=True)
        for record in _measured(item, cfg, device, records, end):
            records.append(record)
            _append(folder / RESULTS, record)
        if records[-1]["error"]:
            failed.add(item.key)  # until the next visit
        outcome = records[-1]["error"] or "done"
        print(f"{item.key}: {outcome}, {records[-1]['seconds']:.0f} s", flush=True)
        files.write_text(folder / PAGE, page(listed, records))
    files.write_text(folder / PAGE, page(listed, records))
    left = [item.key for item in listed if not _results(item, records)]
    print(f"{len(listed) - len(left)} of {len(listed)} items are measured: {folder / PAGE}")
    if left:
        print("the next visit begins with what is missing:\n  " + "\n  ".join(left))


def following(listed: list[Item], records: list[Record], remaining: float) -> Item | None:
    """The next item that should end within ``remaining`` seconds, if any does."""
    fitting = [item for item in listed if _estimate(item, records) <= remaining]
    begun = Counter(record["key"] for record in records if "begun" in record)
    if missing := [item for item in fitting if not _results(item, records)]:
        return min(missing, key=lambda item: begun[item.key])
    noise = {item.key: _noise(_results(item, records)) for item in fitting}
    noisy = [item for item in fitting if noise[item.key] > 0]
    return max(noisy, key=lambda item: noise[item.key], default=None)


def read(path: Path) -> list[Record]:
    """All whole lines of the results; none if there is no file."""
    found = []
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue  # cut off when a visit was killed
    return found


def page(listed: list[Item], records: list[Record]) -> str:
    """What was found, as Markdown: an overview, and each item's last tables."""
    lines = [["Item", "Times", "Seconds", "Kernels", "Noise", "Outcome"]]
    parts = []
    for item in listed:
        results = _results(item, records)
        tried = [r for r in records if r["key"] == item.key and "begun" not in r]
        if not tried:
            lines.append([item.key, "0", *[DASH] * 3, "not reached"])
            continue
        last = results[-1] if results else tried[-1]
        noise = _noise(results)
        lines.append(
            [
                item.key,
                str(len(results)),
                f"{last['seconds']:.0f}",
                "yes" if last["kernels"] else "no",
                f"{noise:.3f}" if noise else DASH,
                last["error"] or "measured",
            ]
        )
        if results:
            about = "; ".join(f"{k}: {v}" for k, v in last["conditions"].items() if v is not None)
            parts += [f"## {item.key}"]
            for heading, table in last["report"]["tables"].items():
                parts += [f"### {heading}", markdown(table)]
            if len(results) > 1:
                found = [[name, str(n), text(r, 3)] for name, n, r in _ratios(results)]
                parts += ["### All visits together", markdown([POOLED, *found])]
            for bar in last["report"]["bars"]:
                met = "met" if bar["met"] else "**not met**"
                parts.append(f"{bar['name']}: {bar['found']}, wanted {bar['wanted']}: {met}.")
            parts.append(f"Measured on {about}.")
    note = (
        "Noise is the distance between the quartiles of a ratio over its median and the root of "
        "the number of rounds, of the item's noisiest ratio. Tables are of the last time that an "
        "item was measured; under All visits together, time is relative to the first line in the "
        "same rounds. docs/gpu.md explains the order, and the suites' notes explain the tables."
    )
    return "\n\n".join(["# Visits to a GPU", note, markdown(lines), *parts]) + "\n"


def _measured(
    item: Item, cfg: DictConfig, device: torch.device, records: list[Record], end: float
) -> Any:
    """Yield a record that the item was begun, and then its result."""
    yield {"key": item.key, "begun": time.time()}
    start, report, error = time.monotonic(), None, None
    passed = item.kernels if item.kernels is not None else _kernels_passed(records, device)
    try:
        with kernels.used(passed):
            report = _run(item, cfg, device, records, end - start)
    except (BiGainError, RuntimeError, AssertionError, ValueError, TypeError) as failure:
        error = f"{type(failure).__name__}: {one_line(failure)[:300]}"
    if device.type == "cuda":
        torch.cuda.empty_cache()
    yield {
        "key": item.key,
        "suite": item.suite,
        "seconds": time.monotonic() - start,
        "kernels": passed,
        "error": error,
        "conditions": conditions(device),
        "report": asdict(report) if report else None,
    }


def _run(
    item: Item, cfg: DictConfig, device: torch.device, records: list[Record], remaining: float
) -> Report:
    settings = OmegaConf.load(REPOSITORY / "configs" / "benchmark.yaml")
    assert isinstance(settings, DictConfig)
    more: dict[str, Any] = {"seed": cfg.seed, **item.settings}
    if item.suite == "forwards":  # whose cases are replaced, not added to
        settings.forwards.cases = {}
    if item.suite == "gpu_tests":
        more["gpu_tests"] |= {"timeout": remaining}
    if item.suite == "extremes":
        done = [r for r in records if r.get("suite") == "forwards" and r["report"]]
        more["extremes"] = {"cases": find([m for r in done for m in r["report"]["measurements"]])}
    merged: Any = OmegaConf.merge(settings, more)
    report: Report = import_module(f"bigain.benchmarks.{item.suite}").run(merged, device)
    return report


def _kernels_passed(records: list[Record], device: torch.device) -> bool:
    """Whether the kernels' tests passed on a GPU when last run; never with BIGAIN_KERNELS=0."""
    tests = [r for r in records if r.get("suite") == "gpu_tests" and "test_kernels" in r["key"]]
    wanted = device.type == "cuda" and os.environ.get("BIGAIN_KERNELS") != "0"
    return wanted and bool(tests) and tests[-1]["error"] is None


def _results(item: Item, records: list[Record]) -> list[Record]:
    return [r for r in records if r["key"] == item.key and r.get("report")]


def _estimate(item: Item, records: list[Record]) -> float:
    """Its longest time so far if it was measured, else a guess."""
    known = [record["seconds"] for record in _results(item, records)]
    return MARGIN * max(known) if known else item.seconds


def _ratios(results: list[Record]) -> list[tuple[str, int, Ratio]]:
    """Of all visits, each thing that was timed, with its rounds and its time over the first one's.

    Where a measurement lists the uncompressed times of the same rounds, those are the base.
    """
    over: dict[tuple[int, str], list[float]] = {}
    under: dict[tuple[int, str], list[float]] = {}
    for result in results:
        for number, measured in enumerate(result["report"]["measurements"]):
            seconds = measured["seconds"]
            first = next(iter(seconds.values()))
            beside = measured.get("uncompressed_beside", {})
            for name, times in seconds.items():
                over.setdefault((number, name), []).extend(times)
                under.setdefault((number, name), []).extend(beside.get(name, first))
    return [(key[1], len(over[key]), ratio(over[key], under[key])) for key in over]


def _noise(results: list[Record]) -> float:
    """The quartiles' distance over the median and the root of the rounds, of the noisiest ratio."""
    found = _ratios(results)
    return max(((r.high - r.low) / r.median / n**0.5 for _, n, r in found), default=0.0)


def _append(path: Path, record: Record) -> None:
    """Add a line and wait until it is on disk; a break before it ends a line that was cut off."""
    with files.explained(path), path.open("a") as file:
        file.write(f"\n{json.dumps(record)}\n")
        file.flush()
        os.fsync(file.fileno())
