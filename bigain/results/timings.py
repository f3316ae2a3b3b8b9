"""What a forward takes under each compression, as scripts/benchmark.py measured it."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from bigain.errors import BiGainError
from bigain.results.store import Run

FILE = "tables.json"  # of the suite of that name, in a folder of its device's type


class Time(NamedTuple):
    """Of a forward, uncompressed is 1: the median and the quartiles of the rounds."""

    median: float
    low: float
    high: float


def key(model: str, compression: Mapping[str, Any] | None) -> str:
    """What names a measurement: a model of configs/model and the part of a run's identity."""
    return f"{model} {json.dumps(compression, sort_keys=True)}"


def time_of(run: Run, benchmarks: Path) -> Time | None:
    """The time of the run's compression; None if it was not measured."""
    model = run.config.get("model")
    if model is None:
        return None
    return _times(benchmarks).get(key(model["name"], run.identity["compression"]))


def measured_on(benchmarks: Path) -> str | None:
    """The device of the times; None if there are none."""
    path = _file(benchmarks)
    return None if path is None else _read(path)["conditions"]["device"]


@cache
def _times(benchmarks: Path) -> dict[str, Time]:
    path = _file(benchmarks)
    if path is None:
        return {}
    return {
        name: Time(*time) for m in _read(path)["measurements"] for name, time in m["times"].items()
    }


def _file(benchmarks: Path) -> Path | None:
    """A GPU's measurements before a CPU's."""
    there = [path for kind in ("cuda", "cpu") if (path := benchmarks / kind / FILE).is_file()]
    return there[0] if there else None


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    except (OSError, ValueError) as error:
        raise BiGainError(
            f"{path} is damaged ({error}); make it again with scripts/benchmark.py suites=[tables]"
        ) from error
