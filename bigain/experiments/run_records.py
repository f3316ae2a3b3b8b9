"""What a run keeps beside its rows: its sessions, costs and failures, and what has no label."""

import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from bigain.errors import BiGainError
from bigain.experiments.job import Job
from bigain.experiments.schema import explain
from bigain.profiling.timing import conditions
from bigain.store.runs import Run
from bigain.store.shards import Shard
from bigain.tasks.columns import UNLABELLED
from bigain.utils.devices import device_of


@contextmanager
def session_recorded(job: Job, run: Run, todo: Sequence[str], command: str) -> Iterator[None]:
    """Record how some of the run's images are computed: what changes no result, but its time.

    That is done before the first image, so that no kill can lose it. How many images there were,
    and when the last one was finished, is added at the end.

    Args:
        todo: the images that are computed inside the ``with`` block.
        command: what computes them.
    """
    shard = job.settings.shard
    session: dict[str, Any] = {
        "id": uuid4().hex,
        "started": _now(),
        "shard": None if shard.whole else str(shard),
        "batch_size": job.setup.batch_size,
        "compile": job.setup.compile,
        **conditions(device_of(job.setup.device)),
        "command": command,
    }

    def added(found: dict[str, Any] | None) -> dict[str, Any]:
        sessions = (found or {"sessions": []})["sessions"]
        return {"sessions": [*(s for s in sessions if s.get("id") != session["id"]), session]}

    run.update("sessions", added)
    try:
        yield
    finally:
        with suppress(BiGainError):  # as on a full disk, whose first error is the one to hear
            session["images"] = len(todo) - len(job.task.unfinished(run, todo))
            session["finished"] = _now()
            run.update("sessions", added)


@contextmanager
def failure_recorded(run: Run, shard: Shard, command: str) -> Iterator[None]:
    """Record why a shard of the run failed, until it succeeds."""
    name = "failed" if shard.whole else f"failed-{shard.index}-of-{shard.count}"
    try:
        yield
    except Exception as error:
        known = isinstance(error, BiGainError)
        about = {
            "error": explain(error) if known else f"{type(error).__name__}: {error}",
            "traceback": None if known else traceback.format_exc().splitlines(),
            "command": command,
            "shard": None if shard.whole else str(shard),
            "time": _now(),
        }
        with suppress(BiGainError):  # as on a full disk, whose first error is the one to hear
            run.record(name, about)
        raise
    run.forget(name)


def record_cost(job: Job, run: Run, peak: float | None) -> None:
    """Record the FLOPs of one evaluation, and the highest peak of memory of all sessions.

    Args:
        peak: the peak of this session in MiB; None if it is not known, or yet to come.
    """

    def cost(before: dict[str, Any] | None) -> dict[str, Any]:
        peaks = [p for p in ((before or {}).get("peak_memory_mib"), peak) if p is not None]
        flops = job.flops_spent(run)
        return {
            "gflops": flops.total / 1e9 if flops else None,
            "gflops_matching": flops.matching / 1e9 if flops else None,
            "peak_memory_mib": max(peaks, default=None),
        }

    run.update("cost", cost)


def record_unlabelled(job: Job, run: Run) -> None:
    """Record how many images a classification leaves out, as they have no right answer, if any."""
    if not job.task.compares_classes:
        return
    labelled = len(job.task.ids(job.dataset, None))
    if unlabelled := len(job.dataset.ids()) - labelled:
        run.record(UNLABELLED, {"labelled": labelled, "unlabelled": unlabelled})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
