"""What there is to show of a finished run, in plain values that any service takes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from bigain import config
from bigain.job import Job
from bigain.metrics.accuracy import hits
from bigain.results import tables
from bigain.results.accuracy import accuracy_row
from bigain.results.generation import generation_row
from bigain.results.store import MissingImagesError, Run

# keys of the configuration that say nothing about a result
ELSEWHERE = (
    "results", "logger", "experiment", "sweep", "shards", "shard", "start", "device", "batch_size",
)  # fmt: skip


def description(job: Job, run: Run) -> dict[str, Any]:
    """The resolved configuration, "identity" and "fingerprint" of a run.

    Beside them "ratio" and "factor" of the compressor or the first of its parts that has one, and
    "devices" that computed it. Absolute paths lose what differs between machines.
    """
    resolved: Any = OmegaConf.to_container(job.cfg, resolve=True)
    found = {key: value for key, value in resolved.items() if key not in ELSEWHERE}
    sessions = (run.read_record("sessions") or {"sessions": []})["sessions"]
    found |= {
        "blocks": job.blocks,
        "identity": run.identity,
        "fingerprint": run.fingerprint,
        "devices": sorted({session["device"] for session in sessions}),
        **strength(job),
    }
    return _portable(found)


def strength(job: Job) -> dict[str, float]:
    """ "ratio" and "factor" of the job's compressor, those it has."""
    fields = config.plain(job.compressor)
    found = {key: _first(fields, key) for key in ("ratio", "factor")}
    return {key: value for key, value in found.items() if value is not None}


def _first(value: Any, key: str) -> Any:
    """The first value under ``key`` at any depth; None if there is none."""
    if isinstance(value, Mapping):
        if value.get(key) is not None:
            return value[key]
        value = list(value.values())
    if isinstance(value, list):
        return next((f for v in value if (f := _first(v, key)) is not None), None)
    return None


def _portable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _portable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_portable(v) for v in value]
    if isinstance(value, str) and Path(value).is_absolute():
        path = Path(value)
        inside = path.is_relative_to(config.REPOSITORY)
        return str(path.relative_to(config.REPOSITORY)) if inside else path.name
    return value


def numbers(job: Job, run: Run) -> dict[str, Any]:
    """The run's row of a table of the job's images, under the same names, less what is not known.

    "n", "evaluations", "seconds" and "peak_memory_mib" are called so under every task. Differences
    are to the uncompressed run, where it has the same images.

    Raises:
        BiGainError: if the uncompressed run was scored otherwise or has other labels.
    """
    frame, cost = run.require(job.ids), run.read_record("cost")
    cost = cost and {key: cost[key] for key in tables.COST}
    plain = None if job.compressor is None else _uncompressed(job)
    name = job.cfg.compressor.name
    if job.cfg.task.name == "generate":
        row = generation_row(name, frame, _scores(job, run), _scores(job, plain), cost)
        row = {key.removeprefix("generate_"): value for key, value in row.items()}
        row["n"] = row.pop("generated")
    else:
        row = accuracy_row(name, frame, _rows(plain, job.ids), cost)
    return {k: v for k, v in row.items() if v is not None and k != "method"}


def _uncompressed(job: Job) -> Run | None:
    path = job.uncompressed().run_path
    return Run.open(path) if path.exists() else None


def _scores(job: Job, run: Run | None) -> dict[str, Any] | None:
    return run.read_record(job.scoring.record(len(job.ids))) if run and job.scoring else None


def _rows(run: Run | None, ids: Sequence[str]) -> pd.DataFrame | None:
    try:
        return run.require(ids) if run else None
    except MissingImagesError:
        return None


def images(run: Run, ids: Sequence[str]) -> pd.DataFrame:
    """A row an image, in the order of ``ids``.

    Of classification image_id, labels, prediction, correct, seconds, and the mean errors of the
    label (the lowest of several) and of the prediction; of generation image_id, label, prompt and
    seconds.
    """
    frame = run.require(ids)
    if "prediction" not in frame:
        return frame[["image_id", "label", "prompt", "seconds"]]
    errors = np.stack(list(frame["errors"]))
    labels = [list(map(int, wanted)) for wanted in frame["labels"]]
    correct = hits(frame["prediction"], frame["labels"])
    return pd.DataFrame(
        {
            "image_id": frame["image_id"],
            "labels": labels,
            "prediction": frame["prediction"],
            "correct": np.asarray(correct, dtype=bool),
            "seconds": frame["seconds"],
            "label_error": [e[w].min() for e, w in zip(errors, labels, strict=True)],
            "prediction_error": errors[np.arange(len(frame)), frame["prediction"]],
        }
    )


def figures(job: Job, run: Run) -> dict[str, Path]:
    """Pictures of the run, such as "sheet", and those of its sweep's table drawn since, by name."""
    found = sorted(run.path.glob("*.png"))
    if sweep := job.cfg.get("sweep"):
        finished = max(part.stat().st_mtime for part in run.path.glob("part-*.parquet"))
        drawn = (Path(job.cfg.results) / f"{sweep}{mark}.png" for mark in ("", "-samples"))
        found += [path for path in drawn if path.exists() and path.stat().st_mtime >= finished]
    return {path.stem: path for path in found}
