"""What there is to show of a finished run, in plain values that any service takes."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from bigain.experiments.experiment_files import SCALES
from bigain.experiments.job import Job
from bigain.metrics.accuracy import hits
from bigain.reporting import tables
from bigain.reporting.accuracy import accuracy_row
from bigain.reporting.generation import generation_row
from bigain.store.runs import MissingImagesError, Run
from bigain.tasks import generate
from bigain.utils.paths import REPOSITORY

# keys of the configuration that say nothing about a result
ELSEWHERE = (
    "results", "logger", "experiment", "sweep", "shards", "shard", "device", "batch_size",
)  # fmt: skip


def description(job: Job, run: Run) -> dict[str, Any]:
    """The resolved configuration, "identity" and "fingerprint" of a run.

    Beside them "ratio" and "factor" of the compressor or the first of its parts that has one, and
    "devices" that computed it. Absolute paths lose what differs between machines.
    """
    resolved: Any = OmegaConf.to_container(job.cfg, resolve=True)
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
    """ "ratio" and "factor" of the job's compressor, those it has."""
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


def numbers(job: Job, run: Run) -> dict[str, Any]:
    """The run's row of a table of the job's images, under the same names, less what is not known.

    "n", "evaluations", "seconds" and "peak_memory_mib" are called so under every task. Differences
    are to the uncompressed run, where it has the same images; a trace has none.

    Raises:
        BiGainError: if the uncompressed run was scored otherwise or has other labels.
    """
    frame, cost = run.require(job.ids), run.read_record("cost")
    cost = cost and {key: cost[key] for key in tables.COST}
    if job.cfg.task.name == "trace":
        seconds = float(frame["seconds"].median())
        row = {"n": len(frame), "evaluations": job.task.spent(frame), "seconds": seconds}
        return {k: v for k, v in (row | (cost or {})).items() if v is not None}
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
    return Run.find(job.uncompressed().run_path)


def _scores(job: Job, run: Run | None) -> dict[str, Any] | None:
    return job.scoring.read(run, len(job.ids)) if run and job.scoring else None


def _rows(run: Run | None, ids: Sequence[str]) -> pd.DataFrame | None:
    try:
        return run.require(ids) if run else None
    except MissingImagesError:
        return None


def images(run: Run, ids: Sequence[str]) -> pd.DataFrame | None:
    """A row an image, in the order of ``ids``; None of a trace.

    Of classification image_id, labels, prediction, correct, seconds, and the mean errors of the
    label (the lowest of several) and of the prediction, which bundles do not keep; of generation
    image_id, label, prompt and seconds.
    """
    frame = run.require(ids)
    if "prompt" in frame:
        return frame[["image_id", "label", "prompt", "seconds"]]
    if "prediction" not in frame:
        return None
    labels = [list(map(int, wanted)) for wanted in frame["labels"]]
    correct = hits(frame["prediction"], frame["labels"])
    return pd.DataFrame(
        {
            "image_id": frame["image_id"],
            "labels": labels,
            "prediction": frame["prediction"],
            "correct": np.asarray(correct, dtype=bool),
            "seconds": frame["seconds"],
            "label_error": [_error(e, w) for e, w in zip(frame["errors"], labels, strict=True)],
            "prediction_error": [
                _error(e, [p]) for e, p in zip(frame["errors"], frame["prediction"], strict=True)
            ],
        }
    )


def _error(errors: Sequence[float], classes: Sequence[int]) -> float:
    """The lowest of the classes; NaN where the errors were not kept."""
    return min(errors[c] for c in classes) if len(errors) else math.nan


def samples(job: Job, run: Run, most: int) -> list[tuple[Path | np.ndarray, str]]:
    """The first ``most`` generated images, each with its prompt.

    Files, or of an archived run what its contact sheet shows of them, uint8 [H, W, 3] each, small
    ones enlarged.
    """
    if job.cfg.task.name != "generate":
        return []
    ids = job.ids[:most]
    files = generate.files(run, ids)
    shown: Sequence[Path | np.ndarray] = files
    if not all(file.exists() for file in files):
        # the sheet is of the run's first images, be they more or fewer than these
        shown = run.sheet()[job.cfg.start :]
    return list(zip(shown, run.require(ids)["prompt"], strict=False))


def figures(job: Job, run: Run) -> dict[str, Path]:
    """Pictures of the run, such as "sheet", and its sweep's figures drawn since, by name.

    Those lie in the folder of results, or, if that is a scale's, beside it. The sheet is of the
    run's first images, and not there if the job leaves them out.
    """
    found = [] if job.cfg.start else sorted(run.path.glob("*.png"))
    if sweep := job.cfg.get("sweep"):
        finished = _finished(run)
        here = Path(job.cfg.results)
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
