"""Finished runs made small enough to keep in the repository: a few bundles for all of them."""

from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd

from bigain.errors import BiGainError
from bigain.experiments.experiment_files import Entry, Experiment
from bigain.reporting import findings, maps, samples
from bigain.reporting.build import figures_of
from bigain.store import run_images
from bigain.store.bundles import Bundled, Bundles
from bigain.store.runs import Run
from bigain.tasks import TASKS
from bigain.tasks.trace_rows import at_timesteps

BATCH = 200  # runs that are read at a time


@dataclass
class Reads:
    """What tables, figures and findings read of runs beside predictions, by the runs' folders.

    Attributes:
        trials: the images whose trials a finding reads, by run.
        slots: the traces of which a figure shows the tokens' slots.
        timesteps: the timesteps of traces.
        everything: keep all of it of all runs, as an experiment that cannot be read may need it.
    """

    trials: dict[str, set[str]] = field(default_factory=dict)
    slots: set[str] = field(default_factory=set)
    timesteps: set[int] = field(default_factory=lambda: {findings.TIMESTEP})
    everything: bool = False


def reads_of(experiments: Iterable[Experiment], everything: bool = False) -> Reads:
    """What experiments read; rows that cannot run here are left out."""
    found = Reads(everything=everything)
    for experiment in experiments:
        if (timestep := experiment.maps.get("timestep")) is not None:
            found.timesteps.add(timestep)
        for row in experiment.rows:
            for task, entry in row.entries.items():
                wanted = findings.reads_trials(experiment.name, row.name)
                trials = TASKS[task].compares_classes and wanted
                slots = TASKS[task].watches and "maps" in figures_of(experiment)
                own = Entry(entry.overrides)
                if not (trials or slots) or (path := _name(own)) is None:
                    continue
                if trials:
                    found.trials.setdefault(path, set()).update(own.image_ids())
                else:
                    found.slots.add(path)
    return found


def bundle(entries: Sequence[Entry], reads: Reads) -> int:
    """Bring the entries' finished and scored runs into the bundles, and remove their folders.

    Generated images are removed, too. What tables, figures and findings read stays, so they build
    without the rest; a run that is asked for more images gets a folder again, with all rows it had.
    Killed at any moment and called again, this continues.

    Returns:
        How many entries are in bundles.

    Raises:
        LockedError: if a process is working on one of the runs.
    """
    done = 0
    waiting: dict[Path, Run] = {}
    for given in entries:
        entry = Entry(given.overrides)  # whose data and model go with it, as there may be many
        try:
            job = entry.job
            run = Run.find(job.run_path)
        except BiGainError:  # such as data that are not on this machine
            continue
        if run is None or job.task.unfinished(run, job.ids) or not entry.scored(run):
            continue
        done += 1
        if run.bundled:
            run.tidy()
            continue
        if job.scoring is not None:
            with run.lock():
                _archive(run, len(job.ids))
            if any(run_images.folder(run).glob("*.png")):
                done -= 1  # images that are not scored: the folder is kept
                continue
        waiting[run.path] = run
    every = list(waiting.values())
    for start in range(0, len(every), BATCH):
        _move(every[start : start + BATCH], reads)
    return done


def drop_unused(entries: Iterable[Entry]) -> list[str]:
    """Take runs that belong to none of these entries out of the bundles that hold theirs.

    Returns:
        The names of the runs that are gone.

    Raises:
        BiGainError: if an entry cannot run here, so that the name of its run is not known.
    """
    wanted: dict[Path, set[str]] = {}
    for entry in entries:
        path = Entry(entry.overrides).run_path
        wanted.setdefault(path.parent, set()).add(path.name)
    gone: list[str] = []
    for root, names in wanted.items():
        bundles = Bundles.beside(root)
        unused = sorted(set(bundles.names()) - names)
        bundles.drop(unused)
        gone += unused
    return gone


def _move(runs: Sequence[Run], reads: Reads) -> None:
    """Add runs to the bundles beside them, and remove their folders."""
    for root in {run.path.parent for run in runs}:
        here = [run for run in runs if run.path.parent == root]
        with ExitStack() as held:
            for run in here:
                held.enter_context(run.lock())
            Bundles.beside(root).add([packed(run, reads) for run in here])
            for run in here:
                run.remove()


def packed(run: Run, reads: Reads) -> Bundled:
    """The run less what nothing reads."""
    rows, name = run.rows(), run.path.name
    sheet = len(run.sheet())
    if "trials" in rows:
        every = set(rows["image_id"]) if reads.everything else set[str]()
        rows = _classified(rows, every or reads.trials.get(name, set()))
    if "slots" in rows and not reads.everything:
        rows = _traced(rows, reads.timesteps, name in reads.slots)
    if "prompt" in rows:
        sheet = min(sheet, int(samples.shown(rows, sheet)["index"].max()) + 1 if sheet else 0)
    return run.pack(rows, sheet)


def _archive(run: Run, scored: int) -> None:
    before = (run.read_record(run_images.ARCHIVED) or {"images": 0})["images"]
    run.record(run_images.ARCHIVED, {"images": max(before, scored)})
    for path in run_images.files(run, run_images.first_ids(scored)):
        path.unlink(missing_ok=True)


def _classified(rows: pd.DataFrame, images: Collection[str]) -> pd.DataFrame:
    """Errors are read where an image has several labels, and the trials of ``images`` by a finding.

    That takes those of the noises that every class was tried with; the rest are NaN.
    """
    rows = rows.copy()
    several = rows["labels"].map(len).max() > 1
    rows["errors"] = _single(rows["errors"], several)
    kept = rows["image_id"].isin(images) & (rows["trials"].map(len) > 0)
    if kept.any():
        classes = len(rows["samples"].iloc[0])
        each = np.stack(list(rows["trials"][kept])).reshape(kept.sum(), classes, -1)
        each[..., np.isnan(each).any((0, 1))] = np.nan
        read = pd.Series(list(each.reshape(len(each), -1)), rows.index[kept])
        rows["trials"] = read.reindex(rows.index)
    empty = pd.Series([[]] * len(rows), rows.index)
    rows["trials"] = _single(rows["trials"].where(kept, empty), True)
    return rows


def _traced(rows: pd.DataFrame, timesteps: Collection[int], slots: bool) -> pd.DataFrame:
    """Spectra at the timesteps of figures and findings, and the slots of the images shown."""
    rows = at_timesteps(rows, timesteps) if _covers(rows, timesteps) else rows.copy()
    shown = rows["image_id"].isin(maps.shown(rows) if slots else [])
    for name in ("slots", "roles", "image"):
        rows[name] = rows[name].where(shown, pd.Series([[]] * len(rows), rows.index))
    for name in ("before", "after", "product"):
        rows[name] = _single(rows[name], True)
    return rows


def _covers(rows: pd.DataFrame, timesteps: Collection[int]) -> bool:
    """Whether all rows were traced alike, and at one of ``timesteps``."""
    each = {tuple(map(int, times)) for times in rows["timesteps"]}
    return len(each) == 1 and bool(set(timesteps).intersection(chain(*each)))


def _single(values: pd.Series, kept: bool) -> pd.Series:
    """Lists in single precision, or empty ones."""
    lists = [np.float32(v).astype(float) if kept else np.empty(0) for v in values]
    return pd.Series(lists, values.index)


def _name(entry: Entry) -> str | None:
    try:
        return entry.run_path.name
    except BiGainError:
        return None
