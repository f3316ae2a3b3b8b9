"""What there is to show of a finished run, in plain values that any service takes."""

import dataclasses
import math
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bigain.experiments.experiment_files import SCALES
from bigain.experiments.job import Job
from bigain.store.runs import MissingImagesError, Run
from bigain.tasks.columns import Results
from bigain.utils.paths import REPOSITORY

# keys of the configuration that say nothing about a result
ELSEWHERE = (
    "results", "logger", "experiment", "sweep", "shards", "shard", "device", "batch_size",
)  # fmt: skip


def description(job: Job, run: Run) -> dict[str, Any]:
    """The resolved configuration, "identity" and "fingerprint" of a run.

    Beside them "ratio" and "factor" of the compressor or the first of its parts that has one, and
    the "devices" that computed it. Absolute paths lose what differs between machines.
    """
    resolved = job.settings.resolved
    found = {key: value for key, value in resolved.items() if key not in ELSEWHERE}
    found |= {
        "blocks": job.blocks,
        "identity": run.identity,
        "fingerprint": run.fingerprint,
        "devices": sorted({session["device"] for session in _sessions(run)}),
        **strength(job),
    }
    return _portable(found)


def strength(job: Job) -> dict[str, float]:
    """The "ratio" and "factor" of the job's compressor, those that it has."""
    found = {key: _first(job.compressor, key) for key in ("ratio", "factor")}
    return {key: value for key, value in found.items() if value is not None}


def _first(value: Any, key: str) -> Any:
    """The first value under ``key`` at any depth; None if there is none."""
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        if value.get(key) is not None:
            return value[key]
        value = list(value.values())
    if isinstance(value, list | tuple):
        return next((f for v in value if (f := _first(v, key)) is not None), None)
    return None


def _portable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _portable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_portable(v) for v in value]
    if isinstance(value, str) and Path(value).is_absolute():
        path = Path(value)
        inside = path.is_relative_to(REPOSITORY)
        return str(path.relative_to(REPOSITORY)) if inside else path.name
    return value


def numbers(job: Job) -> dict[str, Any]:
    """The run's row of a table of the job's images, under the same names, less what is not known.

    Differences are to the uncompressed run, where it has the same images.

    Raises:
        BiGainError: if the uncompressed run was scored otherwise or has other labels.
    """
    row = job.task.numbers(job.results(), uncompressed(job))
    return {k: v for k, v in row.items() if v is not None and k != "method"}


def uncompressed(job: Job) -> Results | None:
    """Results of the uncompressed run; None if this is it, or it has not finished these images."""
    if job.compressor is None or not job.task.compared:
        return None
    plain_job = job.uncompressed()
    if not plain_job.run_path.exists():
        return None
    try:
        return plain_job.results()
    except MissingImagesError:
        return None


def images(job: Job, run: Run) -> pd.DataFrame | None:
    """A table with one row per image of the job; None for a task that shows none."""
    return job.task.images(run.require(job.ids))


def samples(job: Job, run: Run, most: int) -> list[tuple[Path | np.ndarray, str]]:
    """The first ``most`` generated images, each with its prompt.

    Files, or of an archived run what its contact sheet shows of them, uint8 [H, W, 3] each, small
    ones enlarged.
    """
    return job.task.pictures(run, job.ids[:most], job.setup.start)


def figures(job: Job, run: Run) -> dict[str, Path]:
    """Pictures of the run, such as "sheet", and its sweep's figures drawn since, by name.

    Those lie in the folder of results, or, if that is a scale's, beside it. The sheet is of the
    run's first images, and not there if the job leaves them out.
    """
    found = [] if job.setup.start else sorted(run.path.glob("*.png"))
    if sweep := job.settings.sweep:
        finished = _finished(run)
        here = job.setup.results
        folders = [here.parent, here] if here.name in SCALES else [here]
        drawn = [path for folder in folders for path in sorted(folder.glob("*.png"))]
        named = [p for p in drawn if p.stem == sweep or p.stem.startswith(f"{sweep}-")]
        found += [path for path in named if path.stat().st_mtime >= finished]
    return {path.stem: path for path in found}


def _finished(run: Run) -> float:
    """When its last session ended, in seconds since the epoch; never, if none is recorded.

    Its parts do not tell: compacting rewrites them.
    """
    ends = [datetime.fromisoformat(session["finished"]) for session in _sessions(run)]
    return max((end.timestamp() for end in ends), default=math.inf)


def _sessions(run: Run) -> list[dict[str, Any]]:
    return (run.read_record("sessions") or {"sessions": []})["sessions"]
