"""From a configuration to finished rows in the store."""

import platform
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import diffusers
import pandas as pd
import torch
from omegaconf import DictConfig

from bigain.attach import Attachment, compress
from bigain.device import device_of
from bigain.job import Job
from bigain.metrics.memory import PeakMemory
from bigain.results.generation import fid_difference
from bigain.results.store import MissingImagesError, Run
from bigain.scoring import evaluate, summary
from bigain.tasks.base import Work
from bigain.tasks.evaluate import TooFewImagesError


def execute(cfg: DictConfig) -> Run | None:
    """Compute the images of a configuration that its run lacks, and say what came out.

    Returns:
        The run; None where a folder of images without one was scored.

    Raises:
        BiGainError: if the configuration, the data or the model cannot be used.
    """
    if cfg.task.name == "evaluate":
        return evaluate(cfg)
    job = Job(cfg)
    run = job.run()
    with run.lock():
        # before the first image, so that no kill can lose it
        _record_cost(job, run, None)
        todo = job.task.unfinished(run, job.ids)
        if todo:
            _compute(job, run, todo)
        else:
            print(f"nothing to compute: all {len(job.ids)} images are in {run.path}")
        job.task.finish(run, job.ids)
        scores = _score(job, run)
    print(report(job, run, scores))
    return run


def _score(job: Job, run: Run) -> list[str]:
    """Lines about the quality of generated images."""
    if job.scoring is None:
        return []
    n = len(job.ids)
    try:
        scores = job.scoring.of_run(run, n)
    except TooFewImagesError as error:  # the images themselves were asked for, and are there
        return [f"not scored: {error}"]
    lines = summary(scores)
    if job.compressor is not None and scores["fid"] is not None:
        other = job.uncompressed().run_path
        baseline = Run.open(other).read_record(job.scoring.record(n)) if other.exists() else None
        if baseline is not None:
            difference, low, high = fid_difference(job.cfg.compressor.name, scores, baseline)
            lines.append(
                f"FID against uncompressed: {difference:+.2f} [{low:+.2f}, {high:+.2f}], paired"
            )
    return lines


def report(job: Job, run: Run, more: Sequence[str] = ()) -> str:
    """What came out, what it cost, and the comparison with the uncompressed run."""
    frame, cost = run.require(job.ids), run.read_record("cost") or {}
    baseline = None if job.compressor is None else _rows_if_there(job.uncompressed(), job.ids)
    first, *rest = job.task.summary(frame, baseline)
    lines = [first]
    line = f"{job.task.spent(frame):.0f} evaluations an image"
    if cost.get("gflops") is not None:
        line += f" of {cost['gflops']:.3f} GFLOPs, {cost['gflops_matching']:.3f} for matching"
    line += f"; {frame['seconds'].median():.2f} s an image"
    if cost.get("peak_memory_mib") is not None:
        line += f", {cost['peak_memory_mib']:.0f} MiB at the peak"
    lines += [line, *rest, *more]
    if job.compressor is not None and baseline is None:
        lines.append(
            "uncompressed: not run on these images; the same command with compressor=none does"
        )
    return f"{job.cfg.compressor.name}: " + "\n  ".join([*lines, str(run.path)])


def _rows_if_there(job: Job, ids: Sequence[str]) -> pd.DataFrame | None:
    try:
        return Run.open(job.run_path).require(ids) if job.run_path.exists() else None
    except MissingImagesError:
        return None


def _compute(job: Job, run: Run, todo: list[str]) -> None:
    cfg = job.cfg
    device = device_of(cfg.device)
    torch.backends.cudnn.allow_tf32 = False  # convolutions in float32 mean float32
    memory = PeakMemory(device)
    backbone = job.backbone.load(device, getattr(torch, cfg.dtype))
    attached: AbstractContextManager[Attachment | None] = nullcontext()
    if job.compressor is not None:
        attached = compress(
            backbone.denoiser, job.compressor, blocks=job.blocks, sites=cfg.sites, seed=cfg.seed
        )
    with attached as attachment:
        work = Work(
            run=run,
            ids=job.ids,
            todo=todo,
            dataset=job.dataset,
            backbone=backbone,
            attachment=attachment,
            seed=cfg.seed,
            batch_size=cfg.batch_size,
            title=cfg.compressor.name,
        )
        job.task.compute(work)
    _record_cost(job, run, memory.mib())
    _record_session(job, run, device, len(todo))


def _record_cost(job: Job, run: Run, peak: float | None) -> None:
    """FLOPs of one evaluation, and the highest peak of all sessions."""
    before = (run.read_record("cost") or {}).get("peak_memory_mib")
    peaks = [p for p in (before, peak) if p is not None]
    run.record(
        "cost",
        {
            "gflops": job.flops.total / 1e9 if job.flops else None,
            "gflops_matching": job.flops.matching / 1e9 if job.flops else None,
            "peak_memory_mib": max(peaks, default=None),
        },
    )


def _record_session(job: Job, run: Run, device: torch.device, images: int) -> None:
    """How some of the run's images were computed: what cannot change a result, but its time."""
    gpu = device.type == "cuda"
    sessions = (run.read_record("sessions") or {"sessions": []})["sessions"]
    session = {
        "images": images,
        "device": torch.cuda.get_device_name(device) if gpu else platform.machine(),
        "threads": torch.get_num_threads(),
        "batch_size": job.cfg.batch_size,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "python": platform.python_version(),
        "command": " ".join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]),
    }
    run.record("sessions", {"sessions": [*sessions, session]})
