"""From a configuration to finished rows in the store."""

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from bigain.backbones import Backbone
from bigain.compression import attached
from bigain.compression.compilation import compile_denoiser
from bigain.errors import BiGainError
from bigain.experiments.configuration import Settings, settings_of, shard_of
from bigain.experiments.job import Job
from bigain.experiments.logging import log, usable
from bigain.experiments.run_records import (
    failure_recorded,
    record_cost,
    record_unlabelled,
    session_recorded,
)
from bigain.profiling.memory import PeakMemory
from bigain.store.locks import LockedError
from bigain.store.runs import MissingImagesError, Run
from bigain.tasks.base import Work
from bigain.tasks.evaluate import TooFewImagesError
from bigain.tasks.generate_columns import fid_difference
from bigain.tasks.scoring import summary
from bigain.utils.devices import device_of, keep_freed_memory
from bigain.utils.paths import without_home, without_repository

Finished = Callable[[Job, Run], None]


def execute(
    cfg: DictConfig, finished: Finished | None = None, command: str | None = None
) -> Run | None:
    """Compute the images of a configuration that its run lacks, and say what came out.

    Args:
        finished: called with the job and its run once all its images are there, such as to draw
            them: pictures are made above this layer.
        command: what runs this job alone; None if this process's command line does.

    Returns:
        The run; None where there is none: a folder of images was scored, a model profiled, or
        settings searched for.

    Raises:
        BiGainError: if the configuration, the data or the model cannot be used.
    """
    settings = settings_of(cfg, shard_of(cfg))
    if settings.task.searches:
        _search(settings, finished)
        return None
    if not settings.task.schema:  # it keeps no row per image
        return settings.task.report(settings.setup)
    job, shard = Job(settings), settings.shard
    name, command = title_of(job), portable(command or _command())
    logger = usable(settings.logger)  # before computing, to say at once if nothing can be logged
    run = job.run()
    with run.lock(shard, _sweep()), failure_recorded(run, shard, command):
        # before the first image, so that no kill can lose them
        record_cost(job, run, None)
        if (listing := job.dataset.listing()) is not None:
            run.record("files", {"files": listing})
        record_unlabelled(job, run)
        if job.scoring is not None:  # before images are drawn in vain
            job.scoring.check_images(run, len(job.ids))
        ids = shard.of(job.ids, job.setup.start)
        todo = job.task.unfinished(run, ids)
        if todo:
            _compute(job, run, ids, todo, command)
        else:
            print(f"nothing to compute: all {len(ids)} images of {shard} are in {run.path}")
        # the last shard to come here sees all images, and finishes
        if missing := [] if shard.whole else job.task.unfinished(run, job.ids):
            done = len(job.ids) - len(missing)
            print(
                f"{name}: {shard} is done; the run holds {done} of {len(job.ids)} images: "
                f"{run.path}"
            )
            return run
        try:
            with run.lock_finish():
                job.task.finish(run, job.ids)
                run.compact()
                scores = _score(job, run)
                print(report(job, run, scores))
                for record in run.records("failed"):
                    run.forget(record)
                log(logger, job, run)
                if finished is not None:
                    finished(job, run)
        except LockedError:
            print(f"{name}: {shard} is done; another one finishes {run.path}")
    return run


def _search(settings: Settings, finished: Finished | None) -> None:
    """Do a task that runs jobs of its own."""
    from bigain.experiments.tuning import Tuning  # only now, as it runs them by `execute`

    if _sweep():
        raise BiGainError(
            f"task={settings.task.name} runs its candidates one after another, each chosen by the "
            "results of those before; remove -m"
        )
    Tuning(settings, HydraConfig.get().overrides.task, finished).run()


def _score(job: Job, run: Run) -> list[str]:
    """Lines about the quality of generated images."""
    if job.scoring is None:
        return []
    n = len(job.ids)
    try:
        scores = job.scoring.of_run(run, n)
    except TooFewImagesError as error:  # the images themselves were asked for, and are there
        return [f"not scored: {error}"]
    lines = summary(scores, job.scoring.metrics)
    if left_out := job.scoring.left_out(run, n):
        lines.append(f"not scored by all metrics: {left_out}")
    if job.compressor is not None and scores["fid"] is not None:
        other = Run.find(job.uncompressed().run_path)
        baseline = job.scoring.read(other, n) if other else None
        if baseline is not None and baseline["fid"] is not None:
            name = job.setup.names["compressor"]
            difference, low, high = fid_difference(name, scores, baseline)
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
    line = f"{job.task.spent(frame):.0f} evaluations per image"
    if cost.get("gflops") is not None:
        line += f" of {cost['gflops']:.3f} GFLOPs, of which {cost['gflops_matching']:.3f} matching"
    line += f"; {frame['seconds'].median():.2f} s per image"
    if cost.get("peak_memory_mib") is not None:
        line += f", {cost['peak_memory_mib']:.0f} MiB at the peak"
    lines += [line, *rest, *more]
    if job.task.compared and job.compressor is not None and baseline is None:
        settings = [f"task.{name}" for name in sorted(job.task.compressed_only)]
        given = job.task != job.task.uncompressed()
        without = f" and without {', '.join(settings)}" if given else ""
        lines.append(
            "uncompressed: not run on these images; run the same command with compressor=none"
            f"{without}"
        )
    return f"{title_of(job)}: " + "\n  ".join([*lines, str(run.path)])


def _rows_if_there(job: Job, ids: Sequence[str]) -> pd.DataFrame | None:
    try:
        run = Run.find(job.run_path)
        return run.require(ids) if run else None
    except MissingImagesError:
        return None


def load(job: Job) -> Backbone:
    """The job's model on its device, compiled if it is to be."""
    setup, device = job.setup, device_of(job.setup.device)
    torch.backends.cudnn.allow_tf32 = False  # convolutions in float32 mean float32
    if device.type == "cpu":
        keep_freed_memory()
    backbone = job.backbone.load(device, setup.dtype)
    if setup.compile is not None:
        compile_denoiser(backbone.denoiser, setup.compile)
    return backbone


@contextmanager
def working(
    job: Job, backbone: Backbone, run: Run, ids: Sequence[str], todo: Sequence[str], title: str
) -> Iterator[Work]:
    """What the job's task computes, with its compressor on the model meanwhile."""
    setup = job.setup
    where: dict[str, Any] = {"blocks": job.blocks, "sites": setup.sites, "seed": setup.seed}
    with attached(
        backbone.denoiser, job.compressor, decide_on=job.decide_on, **where
    ) as attachment:
        yield Work(
            run=run,
            ids=ids,
            todo=todo,
            dataset=job.dataset,
            backbone=backbone,
            attachment=attachment,
            seed=setup.seed,
            batch_size=setup.batch_size,
            smallest_batch=setup.smallest_batch if device_of(setup.device).type == "cpu" else 1,
            plans=setup.plans,
            title=title,
            schema=job.task.schema,
        )


def _compute(job: Job, run: Run, ids: list[str], todo: list[str], command: str) -> None:
    name, shard = title_of(job), job.settings.shard
    memory = PeakMemory(device_of(job.setup.device))
    with session_recorded(job, run, todo, command):
        backbone = load(job)
        title = name if shard.whole else f"{name}, {shard}"
        with working(job, backbone, run, ids, todo, title) as work:
            job.task.compute(work)
    record_cost(job, run, memory.mib())


def title_of(job: Job) -> str:
    """What names a job in what it prints: its compressor, and in a sweep its other overrides."""
    name = job.setup.names["compressor"]
    if not _sweep():
        return name
    known = ("compressor", "results", "logger", "sweep", "shards", "shard")
    given = [o for o in HydraConfig.get().overrides.task if o.split("=", 1)[0] not in known]
    return " ".join([name, *given])


def _sweep() -> str:
    """A name of the sweep that this job belongs to; empty for one alone."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return ""
    return str(HydraConfig.get().sweep.dir)


def _command() -> str:
    """What runs this job alone; a launcher's process has another line."""
    if not HydraConfig.initialized():
        return " ".join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])
    found = HydraConfig.get()
    own = [s.path for s in found.runtime.config_sources if s.provider == "command-line"]
    folder = [word for path in own for word in ("--config-dir", path)]
    return f"python run.py {shlex.join([*folder, *found.overrides.task])}"


def portable(command: str) -> str:
    """A command as typed in the repository of any machine, with ``~`` for the home directory."""
    made: str = without_home(without_repository(command))
    return made
