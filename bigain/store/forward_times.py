"""What a forward takes under each compression, as scripts/benchmark.py measured it."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from bigain.errors import BiGainError
from bigain.metrics.ratio import Ratio, ratio
from bigain.store.runs import Run
from bigain.utils.hardware import HARDWARE

FILE = "tables.json"  # written by the suite "tables" into a folder per hardware


def key(model: str, compression: Mapping[str, Any] | None) -> str:
    """What names a measurement: a model of configs/model and the part of a run's identity.

    Which tokens decide is left out, because they have the same shape, and so take the same time.
    """
    kept = compression and {k: v for k, v in compression.items() if k != "decide_on"}
    return f"{model} {json.dumps(kept, sort_keys=True)}"


def time_of(run: Run, benchmarks: Path) -> Ratio | None:
    """The time of the run's compression, the uncompressed being 1; None if it was not measured."""
    model = run.config.get("model")
    cascade = "decide_with" in run.identity.get("task", {})  # forwards of two kinds
    if model is None or cascade:
        return None
    compression = key(model["name"], run.identity["compression"])
    dtype = run.identity.get("dtype", "float32")  # which leaves out the default
    return _times(benchmarks).get((compression, dtype))


def conditions_of(benchmarks: Path) -> str | None:
    """What the times were measured on, in words; None if there are none."""
    path = _file(benchmarks)
    if path is None:
        return None
    found = _read(path)
    first = found["measurements"][0]
    device, dtype, batch = found["conditions"]["device"], first["dtype"], first["batch_size"]
    return f"{device}, in {dtype} and batches of {batch}"


@cache
def _times(benchmarks: Path) -> dict[tuple[str, str], Ratio]:
    path = _file(benchmarks)
    measurements = [] if path is None else _read(path)["measurements"]
    return {
        (compression, m["dtype"]): ratio(seconds, m["seconds"][m["baseline"]])
        for m in measurements
        for compression, seconds in m["seconds"].items()
    }


def _file(benchmarks: Path) -> Path | None:
    """The measurements of the fastest hardware."""
    there = (path for kind in HARDWARE if (path := benchmarks / kind / FILE).is_file())
    return next(there, None)


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    except (OSError, ValueError) as error:
        raise BiGainError(
            f"{path} is damaged ({error}); make it again with scripts/benchmark.py suites=[tables]"
        ) from error
