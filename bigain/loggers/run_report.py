"""What a service can show of a finished run, in plain values."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bigain.experiments.experiment_types import SCALES
from bigain.experiments.job import Job
from bigain.store.runs import MissingImagesError, Run
from bigain.tasks.columns import Results
from bigain.utils.paths import REPOSITORY

# keys of the configuration that say nothing about the result
ELSEWHERE = (
    "results", "logger", "experiment", "sweep", "shards", "shard", "device", "batch_size",
)  # fmt: skip


def description(job: Job, run: Run) -> dict[str, Any]:
    """The resolved configuration of a run, with its "identity" and "fingerprint".

    It also holds the "ratio" and "factor" of the compressor, or of the first of its parts that has
    one, and the "devices" that computed the run. Absolute paths are reduced to what machines share.
    """
    resolved = job.settings.resolved
    found = {key: value for key, value in resolved.items() if key not in ELSEWHERE}
    found |= {
        "blocks": job.blocks,
        "identity": run.identity,
        "fingerprint": run.fingerprint,
        "devices": sorted({session["device"] for session in run.sessions()}),
        **strength(job),
    }
    return _portable(found)


def strength(job: Job) -> dict[str, float]:
    """The "ratio" and "factor" of the job's compressor, as far as it has them."""
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
    """The numbers of the run's row in a table, under the same names; unknown ones are left out.

    Differences are from the uncompressed run, if that has finished the same images.

    Raises:
        BiGainError: if the uncompressed run was scored in another way or has other labels.
    """
    row = job.task.numbers(job.results(), uncompressed(job))
    return {k: v for k, v in row.items() if v is not None and k != "method"}


def uncompressed(job: Job) -> Results | None:
    """Results of the uncompressed run; None if it lacks some of these images, or is this run."""
    if job.compressor is None or not job.task.compared:
        return None
    plain_job = job.uncompressed()
    if Run.find(plain_job.run_path) is None:
        return None
    try:
        return plain_job.results()
    except MissingImagesError:
        return None


def images(job: Job, run: Run) -> pd.DataFrame | None:
    """A table with one row per image of the job; None if the task has no such table."""
    return job.task.images(run.require(job.ids))


def samples(job: Job, run: Run, most: int) -> list[tuple[Path | np.ndarray, str]]:
    """The first ``most`` generated images, each with its prompt.

    An image is a file or, if the run is archived, its part of the contact sheet, uint8 [H, W, 3],
    where small images are enlarged.
    """
    return job.task.pictures(run, job.ids[:most], job.setup.start)


def figures(job: Job, run: Run) -> dict[str, Path]:
    """Pictures of the run, such as "sheet", and figures of its sweep drawn since, by name.

    The figures lie in the folder of results, or beside it if the folder is named after a scale.
    The sheet shows the run's first images, so a job that leaves those out has none.
    """
    found = [] if job.setup.start else sorted(run.path.glob("*.png"))
    sweep, ended = job.settings.sweep, run.ended()
    if sweep and ended is not None:
        here = job.setup.results
        folders = [here.parent, here] if here.name in SCALES else [here]
        drawn = [path for folder in folders for path in sorted(folder.glob("*.png"))]
        named = [p for p in drawn if p.stem == sweep or p.stem.startswith(f"{sweep}-")]
        found += [path for path in named if path.stat().st_mtime >= ended]
    return {path.stem: path for path in found}
